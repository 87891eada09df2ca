from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import BrokenCheckpoint, ModelError, UnsafeCheckpoint
from models.pickles import read_weights

PLAIN = {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3, dtype=torch.bfloat16)}


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._mark}",)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.bin"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        {"state_dict": PLAIN, "epoch": 3, "name": "run 7", "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        {f"module.{name}": value for name, value in PLAIN.items()},
        {"state_dict": {f"module._orig_mod.{name}": torch.nn.Parameter(value) for name, value in PLAIN.items()}},
    ],
)
def test_weights_come_out_as_they_were_saved(content: dict, zipped: bool, file: Path) -> None:
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    found = read_weights(file)
    assert set(found.tensors) == set(PLAIN)
    for name, value in PLAIN.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value)
    assert found.skipped == (("epoch", "name", "optimizer") if "epoch" in content else ())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_something_is_refused_by_name_and_runs_nothing(zipped: bool, tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "weights.bin"
    for content in (Evil(mark), {**PLAIN, "x": Evil(mark)}, {"state_dict": PLAIN, "args": [{"deep": Evil(mark)}]}):
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UnsafeCheckpoint, match=r"weights.bin asks for posix.system, .* so it was not opened"):
            read_weights(file)
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # it would have


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_is_refused_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "weights.bin"
    file.write_bytes(pickle.dumps(Evil(mark), protocol))
    with pytest.raises(UnsafeCheckpoint, match=r"posix.system|a name that it computes"):
        read_weights(file)
    assert not mark.exists()


def test_a_second_pickle_hidden_in_the_archive_is_seen(tmp_path: Path, file: Path) -> None:
    torch.save(PLAIN, file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("other/data.pkl", pickle.dumps(Evil(tmp_path / "mark"), 2))
    with pytest.raises(UnsafeCheckpoint, match=r"posix\.system"):
        read_weights(file)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"state_dict": PLAIN, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({**PLAIN, "best": np.float64(0.3)}, "numpy"),
        (torch.nn.Linear(2, 2), r"torch.nn.modules.linear.Linear"),
        ({"w": torch.eye(2).to_sparse()}, r"torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_whatever_is_neither_tensor_nor_container_is_named(content: Any, named: str, file: Path) -> None:
    torch.save(content, file)
    with pytest.raises(UnsafeCheckpoint, match=named):
        read_weights(file)


def test_torchscript_is_named(file: Path) -> None:
    torch.save(PLAIN, file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("weights/constants.pkl", pickle.dumps(()))
    with pytest.raises(UnsafeCheckpoint, match="a TorchScript archive, a program"):
        read_weights(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"lr": 0.1, "epoch": 3}, "holds no weights but epoch, lr"),
        ([PLAIN], "holds a list"),
        ({}, "holds no weights but nothing"),
        ({"state_dict": {}}, "holds no weights"),
        ({"w": torch.ones(2, dtype=torch.complex64), **PLAIN}, "sparse, quantised or complex tensors, such as w"),
    ],
)
def test_files_without_weights_say_what_they_hold(content: Any, message: str, file: Path) -> None:
    torch.save(content, file)
    with pytest.raises(BrokenCheckpoint, match=message):
        read_weights(file)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02.", b"\x00" * 4096])
def test_other_files_are_refused(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(BrokenCheckpoint, match=r"is no file that torch.save wrote, or is cut short"):
        read_weights(file)


def test_a_compressed_archive_is_refused_before_it_is_unpacked(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", b"0" * 50_000_000)
    with pytest.raises(BrokenCheckpoint, match=r"its entry weights/data\.pkl is compressed"):
        read_weights(file)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(zipped=st.booleans(), place=st.floats(0, 1), value=st.integers(0, 255), cut=st.none() | st.floats(0, 1))
def test_a_damaged_file_gives_weights_or_one_of_our_errors(
    zipped: bool, place: float, value: int, cut: float | None, file: Path
) -> None:
    torch.save({"state_dict": PLAIN, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] = value
    file.write_bytes(content if cut is None else content[: int(cut * len(content))])
    with contextlib.suppress(ModelError):
        assert read_weights(file).tensors
