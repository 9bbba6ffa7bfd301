"""Sentences, entities and what is central in a text: spaCy behind small functions, loaded once a process."""
