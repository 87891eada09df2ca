"""`python -m tests.audit`: the pinned versions against the database of known vulnerabilities, for `make lint`.

Exits with 1 when one has a known vulnerability, and says which version mends it. Where the database does not answer, on
a machine without a network, it says so and exits with 0: then nothing was audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
COMMAND = (
    sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip",
    "--progress-spinner", "off", "--timeout", "10", "--format", "json",
)  # fmt: skip


def judge(answer: str, complaint: str) -> tuple[int, str]:
    """The exit code and what to say.

    Args:
        answer: of pip-audit, JSON; empty where it failed.
        complaint: what it wrote to stderr.
    """
    try:
        found: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except ValueError:
        last = (complaint.strip().splitlines() or ["no reason was given"])[-1]
        return 0, f"not audited: {last[:200]}"
    lines = [
        f"{one['name']} {one['version']}: {bug['id']}, mended in {', '.join(bug['fix_versions']) or 'no version yet'}"
        for one in found
        for bug in one.get("vulns", [])
    ]
    audited = sum("skip_reason" not in one for one in found)
    lines.append(f"{audited} of {len(found)} pinned versions were audited")
    return int(len(lines) > 1), "\n".join(lines)


def main() -> int:
    """Ask and tell."""
    try:
        asked = subprocess.run(COMMAND, capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        sys.stdout.write("not audited: no answer within 300 s\n")
        return 0
    code, said = judge(asked.stdout, asked.stderr)
    sys.stdout.write(said + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
