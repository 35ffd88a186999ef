"""The resources that a client must have at the end of a run, and the differences that are allowed."""

from collections.abc import Mapping

from simulation.content import Content, Key
from simulation.envoy import Envoy
from support.encoded import CDS, LDS, RDS, short


def differences(envoy: Envoy, state: Mapping[Key, Content], *, strict: bool) -> list[str]:
    """Return how a client differs from the snapshot of its group.

    ``strict``: every resource was changed at the end, after which fewer differences are allowed.
    """
    wanted = {key: content for key, content in state.items() if envoy.wants(key)}
    held = envoy.held()
    return [
        f"n{envoy.number} has {short(key[0])} {held.get(key)} instead of {wanted.get(key)}"
        for key in sorted({*wanted, *held})
        if held.get(key) != wanted.get(key) and not _is_doubtful(envoy, key, wanted.get(key), strict=strict)
    ]


def _is_doubtful(envoy: Envoy, key: Key, wanted: Content | None, *, strict: bool) -> bool:
    """Say whether a client may lack a resource of its group because it rejected it, or a response that had it.

    After every resource was changed, only a removed resource that no server knows of may differ.
    """
    if strict:
        return wanted is None and any(type_url in (CDS, LDS, RDS) for type_url, _ in envoy.unsure_keys)
    doubts = {*envoy.doubtful, *envoy.unsure_keys}
    if key in envoy.unsure_keys or (key in envoy.doubtful and envoy.doubtful[key] == wanted):
        return True
    if wanted is not None:  # routes to rejected clusters are held
        return key[0] in (LDS, RDS) and bool({(CDS, name) for name in wanted.names(CDS)} & doubts)
    # Clusters that older versions of listeners and routes may use are not removed.
    return key[0] != LDS and any(type_url in (CDS, LDS, RDS) for type_url, _ in doubts)
