"""The memory page: what is remembered, why a passage was found, and how to take it away; on the public API alone."""
