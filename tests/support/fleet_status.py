"""What a server without surroundings says of itself."""

from xds.api.fleet import Certificate, ReplicaStatus, ServerStatus, SourceStatus, StoreStatus, WorkersStatus


def server_status(revision: int, **fields: object) -> ServerStatus:
    """Return the status of a server at a revision, with something in every part."""
    told: dict[str, object] = {
        "version": "1",
        "schema_of": "1.40.0",
        "replica": "one",
        "started_at_ms": 1_000,
        "replicas": (ReplicaStatus(name="one", api="127.0.0.1:1", state="self", revision=revision, streams=4),),
        "workers": WorkersStatus(serving=2),
        "store": StoreStatus(kind="memory", revision=revision),
        "directory": SourceStatus(path="/d", applied_at_ms=2_000, rejected_since_ms=0, problems=0, problem=""),
        "limits": {"streams": 3},
        "certificates": (Certificate(file="a.pem", subject="CN=a", kind="certificate", expires_at_ms=9_000),),
        "problems": ("something",),
        "gone": {"default": 2},
    }
    return ServerStatus(**(told | fields))  # type: ignore[arg-type]
