"""The response bodies, one file a resource, as API.md says: each is said once, rendered and described from that."""
