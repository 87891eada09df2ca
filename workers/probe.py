"""`python -m workers.probe [/livez|/readyz]`: ask the worker of this machine how it is, for container health checks.

Exits with 0 when the page says 200, else with 1 and the page's reason on stdout. Only the standard library: it runs
every few seconds.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

SECONDS = 4.0


def main(arguments: list[str]) -> int:
    """Ask; the exit code."""
    page = arguments[0] if arguments else "/livez"
    port = os.environ.get("SIGHTLINE_METRICS_PORT", "")
    if not port.isdigit() or port == "0":
        sys.stdout.write(f"SIGHTLINE_METRICS_PORT is {port or 'not set'}: there is nothing to ask\n")
        return 1
    host = os.environ.get("SIGHTLINE_METRICS_HOST", "127.0.0.1")
    host = "127.0.0.1" if host in ("", "0.0.0.0") else "[::1]" if host == "::" else host  # noqa: S104 - all addresses, so one of them
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{page}", timeout=SECONDS) as answer:
            body, well = answer.read(), True
    except urllib.error.HTTPError as refused:
        with refused:
            body, well = refused.read(), False
    except OSError as error:
        body, well = f"no answer from {host}:{port}: {error}".encode(), False
    sys.stdout.write(body.decode(errors="replace").strip() + "\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
