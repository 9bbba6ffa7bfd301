"""The response bodies, one file a resource, as API.md says."""
