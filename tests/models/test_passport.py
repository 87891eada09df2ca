from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from models.encoder import load_encoder
from models.passport import Passport
from models.pipeline import open_pipeline
from tests.models.tiny_checkpoints import CONTEXT, DIM, build_clip, copy_of


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "models", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )


@pytest.fixture(scope="module")
def passport(clip: Path) -> Passport:
    return load_encoder(str(clip), device="cpu").passport


def test_it_says_what_the_space_is(passport: Passport, clip: Path) -> None:
    assert passport.model == "tiny-clip"
    assert passport.source == str(clip)
    assert (passport.kind, passport.dim, passport.context_length, passport.dtype) == ("clip", DIM, CONTEXT, "float32")
    assert passport.image_pipeline["resample"] == "bicubic"
    assert passport.libraries["transformers"] == version("transformers")
    assert Passport.from_dict(json.loads(json.dumps(passport.to_dict()))) == passport


def test_a_copy_is_the_same_space_wherever_and_however_it_runs(clip: Path, tmp_path: Path, passport: Passport) -> None:
    copy = open_pipeline(str(copy_of(clip, tmp_path / "renamed"))).passport("bfloat16")
    assert copy.model == "renamed"
    assert copy.dtype == "bfloat16"
    assert replace(copy, libraries={"torch": "9.9"}, revision="0" * 40).differences(passport) == []


def test_a_passport_from_before_scaled_decoding_is_the_same_space(passport: Passport) -> None:
    before = replace(passport, decoding=None)
    assert passport.decoding is not None
    assert before.preprocessing == passport.preprocessing
    assert passport.differences(before) == before.differences(passport) == []
    assert passport.differences(replace(passport, decoding="another rule")) == ["decoding"]


def test_other_weights_are_named_with_what_explains_them(passport: Passport, tmp_path: Path) -> None:
    other = open_pipeline(str(build_clip(tmp_path / "other", seed=5))).passport("float32")
    assert other.differences(passport) == ["model", "weights"]


def test_other_preprocessing_is_named(clip: Path, tmp_path: Path, passport: Passport) -> None:
    folder = copy_of(clip, tmp_path / "tiny-clip")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**config, "resample": 2}))
    assert open_pipeline(str(folder)).passport("float32").differences(passport) == ["preprocessing"]


def test_another_tokenizer_is_named(clip: Path, tmp_path: Path, passport: Passport) -> None:
    folder = copy_of(clip, tmp_path / "tiny-clip")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:4]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert open_pipeline(str(folder)).passport("float32").differences(passport) == ["tokenizer"]


@pytest.mark.parametrize(
    "change", [{"dim": 3}, {"kind": "siglip"}, {"pooling": "x"}, {"context_length": 3}, {"normalisation": "l2"}]
)
def test_each_field_of_identity_is_named(passport: Passport, change: dict) -> None:
    assert replace(passport, **change).differences(passport) == list(change)


def test_a_stored_passport_may_have_more_but_not_less(passport: Passport) -> None:
    content = passport.to_dict()
    assert Passport.from_dict({**content, "added later": 1}) == passport
    del content["weights"]
    with pytest.raises(ValueError, match="lacks weights"):
        Passport.from_dict(content)


def test_the_command_prints_the_passport_of_the_loaded_model(clip: Path, passport: Passport) -> None:
    done = run("passport", "--model", str(clip), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert Passport.from_dict(json.loads(done.stdout)) == passport


def test_the_command_fails_in_one_line_with_what_to_do(tmp_path: Path) -> None:
    done = run("passport", "--model", "openai/clip-vit-base-patch32", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "openai/clip-vit-base-patch32 is not in the local cache" in done.stderr
    assert "hf download" in done.stderr
