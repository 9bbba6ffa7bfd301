"""The root of every error of the embedded database."""


class EmbeddedError(Exception):
    """The embedded database cannot be used; the message says what to do."""
