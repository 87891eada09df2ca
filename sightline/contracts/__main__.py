"""`python -m sightline.contracts`: write what is made from the contracts into the checkout."""

from __future__ import annotations

import sys
from pathlib import Path

from sightline.contracts.documents import documents


def main() -> int:
    """Write every document that differs, remove schemas of contracts that are no more; print what was done."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "docs" / "contracts.md").is_file():
        print("contracts are written from a checkout of sightline", file=sys.stderr)  # noqa: T201
        return 3
    made = documents(root)
    for path in sorted({*made, *(root / "docs" / "contracts").glob("*.json")}):
        if path not in made:
            path.unlink()
        elif path.is_file() and path.read_text(encoding="utf-8") == made[path]:
            continue
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
        print(path.relative_to(root))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
