"""The streams' I/O: servers that carry requests to the hub and responses to clients."""
