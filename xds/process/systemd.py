"""Reports the state of the process to systemd (``sd_notify(3)``), for units with ``Type=notify``."""

import os
import socket

TIMEOUT_S = 1.0


def notify(*states: str) -> str:
    """Send states such as ``READY=1``. Return what went wrong, "" if nothing did or systemd did not ask for them."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return ""
    address = f"\0{path[1:]}" if path.startswith("@") else path  # an abstract socket
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(TIMEOUT_S)
            sender.sendto("\n".join(states).encode(), address)
    except OSError as error:
        return f"NOTIFY_SOCKET={path}: {error}"
    return ""
