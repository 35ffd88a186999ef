"""What a client has to have in the end, and what it may be forgiven."""

from collections.abc import Mapping

from simulation.content import Content, Key
from simulation.envoy import Envoy
from support.encoded import CDS, LDS, RDS, short


def differences(envoy: Envoy, state: Mapping[Key, Content], *, strict: bool) -> list[str]:
    """Say in what a client differs from the snapshot of its group.

    Once all that there is was changed, which is ``strict``, little is forgiven any more.
    """
    wanted = {key: content for key, content in state.items() if envoy.wants(key)}
    held = envoy.held()
    return [
        f"n{envoy.number} has {short(key[0])} {held.get(key)} instead of {wanted.get(key)}"
        for key in sorted({*wanted, *held})
        if held.get(key) != wanted.get(key) and not _is_doubtful(envoy, key, wanted.get(key), strict=strict)
    ]


def _is_doubtful(envoy: Envoy, key: Key, wanted: Content | None, *, strict: bool) -> bool:
    """Say whether a client may be without what its group has: it rejected that, or what came with it.

    Once all there is was changed, that holds only for what is gone, and of which no server knows that it is there.
    """
    if strict:
        return wanted is None and any(type_url in (CDS, LDS, RDS) for type_url, _ in envoy.unsure_keys)
    doubts = {*envoy.doubtful, *envoy.unsure_keys}
    if key in envoy.unsure_keys or (key in envoy.doubtful and envoy.doubtful[key] == wanted):
        return True
    if wanted is not None:  # routes to clusters that were rejected are held back
        return key[0] in (LDS, RDS) and bool({(CDS, name) for name in wanted.names(CDS)} & doubts)
    # What may be used by older versions of listeners and routes is not taken away.
    return key[0] != LDS and any(type_url in (CDS, LDS, RDS) for type_url, _ in doubts)
