"""Serves streams in this process, or in worker processes that share a port."""
