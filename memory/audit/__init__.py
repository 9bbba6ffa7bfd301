"""Who changed what about the service."""
