"""The wheel that other services install: the client alone, with the migrations inside."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from sightline.broker import envelope

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_the_client_and_the_migrations(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"sightline"}
    assert "sightline/_migrations/env.py" in names
    assert any(name.startswith("sightline/_migrations/sql/0001/") for name in names)
    assert "sightline/contact_sheet.html" in names


def test_the_client_imports_neither_torch_nor_celery() -> None:
    code = "import sys, sightline, sightline.cli; sys.exit(bool({'torch', 'celery', 'transformers', 'kombu'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_envelope_is_celerys_protocol_two() -> None:
    import base64
    import json

    message = json.loads(envelope("encode", "sightline.chunks", {"chunk_ids": [1, 2]}))
    assert json.loads(base64.b64decode(message["body"])) == [
        [], {"chunk_ids": [1, 2]}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
    ]  # fmt: skip
    assert message["headers"]["task"] == "sightline.chunks"
    assert message["headers"]["id"] == message["properties"]["correlation_id"]
    assert message["properties"]["delivery_info"] == {"exchange": "", "routing_key": "encode"}
    assert (message["content-type"], message["content-encoding"]) == ("application/json", "utf-8")
    assert message["properties"]["body_encoding"] == "base64"
    assert message["properties"]["delivery_tag"] != message["headers"]["id"]
