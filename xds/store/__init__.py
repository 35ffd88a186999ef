"""The log of changes: memory, SQLite and etcd."""
