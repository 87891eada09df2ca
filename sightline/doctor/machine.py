"""This machine: GPU and models (asked of the models package, in a process of its own), disks, media roots."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightline.doctor.check import Check, fail, ok, size, warn
from sightline.errors import SightlineError
from sightline.media import MediaStore
from sightline.settings import Settings

FREE_WARN = 5 * 2**30
FREE_FAIL = 500 * 2**20
_MODELS_SECONDS = 120


def check_disks(settings: Settings) -> list[Check]:
    """Free space where the embedded stack writes."""
    if settings.database_url is not None or not settings.home.exists():
        return []
    return [check_disk("disk of SIGHTLINE_HOME", settings.home)]


def check_disk(name: str, folder: Path) -> Check:
    """Free space of a folder's file system."""
    free = shutil.disk_usage(folder).free
    found = f"{size(free)} free in {folder}"
    if free < FREE_FAIL:
        return fail(name, f"{found}: Postgres stops when it is full", "free some space")
    return warn(name, found, "free some space before a large ingest") if free < FREE_WARN else ok(name, found)


def check_media_roots(settings: Settings) -> list[Check]:
    """Whether each media root can be read from here; each worker needs the same."""
    found = []
    for root in settings.media_roots:
        name = f"media root {root}"
        try:
            there, free = root.is_dir(), shutil.disk_usage(root).free
            readable = os.access(root, os.R_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
        except FileNotFoundError:
            there, readable, free = False, False, 0
        except PermissionError:  # of a folder above
            there, readable, free = True, False, 0
        if not there:
            found.append(fail(name, "there is no such folder", "mount it, or correct SIGHTLINE_MEDIA_ROOTS"))
        elif not readable:
            found.append(fail(name, "this user may not read it", f"let user {os.geteuid()} read and enter it"))
        else:
            found.append(ok(name, f"readable; {size(free)} free"))
    return found or [ok("media roots", "none: every file is uploaded")]


def check_media_store(settings: Settings) -> list[Check]:
    """Whether content can be stored in the media store and read back; each client and worker needs the same."""
    if settings.media_url is None:
        return []
    probe = b"sightline doctor was here"
    digest = hashlib.sha256(probe).digest()
    try:
        store = MediaStore(settings.media_url)
        store.put(digest, probe)
        intact = store.get(digest, len(probe)) == probe
        store.delete(digest)
    except SightlineError as error:
        return [fail("media store", str(error), "correct SIGHTLINE_MEDIA_URL or the store's credentials")]
    if not intact:
        return [fail("media store", f"{settings.media_url} gave back other content", "use another store")]
    return [ok("media store", f"{settings.media_url} takes content and gives it back")]


def check_models(models: Sequence[tuple[str, str | None]], settings: Settings) -> list[Check]:
    """The device that a worker here would use, and whether the spaces' models are on this machine."""
    if importlib.util.find_spec("models") is None or importlib.util.find_spec("torch") is None:
        return [ok("models", "none run here: this is a client's installation")]
    # Offline, or a look would download gigabytes.
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "models", "machine", "--spaces", json.dumps(list(models))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=_MODELS_SECONDS)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return [fail("models", reason[0], "install what a worker needs: pip install -e '.[worker]'")]
    found: dict[str, Any] = json.loads(done.stdout)
    return [
        check_device(found, settings.device),
        check_cache(found, models, offline=bool(os.environ.get("HF_HUB_OFFLINE"))),
    ]


def check_device(found: dict[str, Any], wanted: str) -> Check:
    """What `python -m models machine` says of torch and its devices, against SIGHTLINE_DEVICE."""
    devices = [f"{d['name']} ({size(d['free_bytes'])} of {size(d['total_bytes'])} free)" for d in found["devices"]]
    torch = f"torch {found['torch']}"
    if devices:
        full = [d["name"] for d in found["devices"] if d["free_bytes"] < 0.1 * d["total_bytes"]]
        line = f"{torch}, CUDA {found['cuda']}: {', '.join(devices)}"
        if full and wanted != "cpu":
            return warn("GPU", f"{line}; nearly full", "see who uses it: nvidia-smi")
        return ok("GPU", line)
    if wanted.startswith("cuda"):
        why = "this torch is built without CUDA" if found["cuda"] is None else "torch finds no driver or no device"
        return fail(
            "GPU",
            f"SIGHTLINE_DEVICE is {wanted}, and {torch} sees no GPU: {why}",
            "see nvidia-smi; or SIGHTLINE_DEVICE=cpu",
        )
    return ok("GPU", f"no GPU, CPU is used ({torch})")


def check_cache(found: dict[str, Any], models: Sequence[tuple[str, str | None]], *, offline: bool) -> Check:
    """Whether the spaces' models lie on this machine, and whether more could be fetched."""
    cache = f"cache {found['cache']}{', offline' if offline else ''}"
    lines = "; ".join(f"{each['model']}: {each['problem']}" for each in found["problems"])
    if lines and offline:
        return fail("models", f"{cache}; not here: {lines}", "copy the models into HF_HOME, or unset HF_HUB_OFFLINE")
    if not offline and not found["cache_writable"]:
        return (fail if lines else warn)(
            "models",
            f"this user may not write to the {cache}: no model can be fetched",
            "set HF_HOME to a folder of its own",
        )
    if lines:
        advice = "a worker fetches them at its start, if the hub can be reached"
        return warn("models", f"{cache}; not on this machine yet: {lines}", advice)
    here = f"those of all spaces ({len(models)}) are on this machine" if models else "no space has one yet"
    return ok("models", f"{here}; {cache}")
