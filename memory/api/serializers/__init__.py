"""The request bodies, one file a resource, as API.md's limits say; what comes out is what the services take."""
