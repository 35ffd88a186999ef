"""The image's health check: whether ``/readyz`` of the admin port answers 200, over TLS if the port speaks it."""

import os
import ssl
import sys
import urllib.error
import urllib.request

PORT = os.environ.get("XDS_ADMIN", "").rpartition(":")[2] or "19000"


def main() -> None:
    """Exit with 0 if the server is ready, with 1 and the reason if it is not."""
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE  # it is this container's own port
    problems = []
    for scheme in ("http", "https"):
        try:
            url = f"{scheme}://127.0.0.1:{PORT}/readyz"
            answer = urllib.request.urlopen(url, timeout=2, context=unverified)  # noqa: S310 - both are HTTP
            sys.stdout.write(answer.read().decode())
            return
        except urllib.error.HTTPError as error:
            sys.exit(error.read().decode().strip())
        except OSError as error:
            problems.append(f"{scheme}: {error}")
    sys.exit("; ".join(problems))


if __name__ == "__main__":
    main()
