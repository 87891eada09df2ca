"""Creating spaces: what makes two models' vectors incomparable is said in words, by SQL, client and command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from models.passport import Passport
from models.pipeline import open_pipeline
from sightline.client import Sightline
from sightline.errors import RequestRefused
from sightline.space import create_space
from tests.models.tiny_checkpoints import build_clip, copy_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip(tmp_path_factory.mktemp("spaces") / "tiny-clip")


@pytest.fixture(scope="module")
def passport(folder: Path) -> Passport:
    return open_pipeline(str(folder)).passport("float32")


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def create(connection: psycopg.Connection, name: str, passport: dict[str, Any], **other: Any) -> Any:
    given = {
        "name": name,
        "model": passport.get("model", "m"),
        "dim": passport.get("dim", 8),
        "passport": Jsonb(passport),
    }
    row = connection.execute(
        "select sightline.create_space({})".format(", ".join(f"{key} => %({key})s" for key in {**given, **other})),
        {**given, **other},
    ).fetchone()
    return row[0] if row else None


RULES = {"resample": "bilinear", "antialias": True}
CHANGES = [
    ({"kind": "siglip"}, "kind of model: clip there, siglip given"),
    ({"dim": 3}, "dimension: 24 there, 3 given"),
    (
        {"weights": "f" * 64, "model": "other", "revision": "0" * 40},
        r"weights \(sha256\): [0-9a-f]{12} of tiny-clip there, f{12} of other@0{12} given",
    ),
    ({"towers": "image: 1"}, r"settings of the towers: .* there, image: 1 given"),
    ({"tokenizer": "e" * 64}, r"tokenizer \(digest\): [0-9a-f]{12} there, e{12} given"),
    ({"tokenizer": None}, r"tokenizer \(digest\): [0-9a-f]{12} there, none given"),
    ({"context_length": 77}, "context length in tokens: 16 there, 77 given"),
    ({"text_padding": "left"}, r"padding of texts: longest in batch, right, .* there, left given"),
    ({"pooling": "mean"}, r"pooling: image: class token; .* there, mean given"),
    (
        {"preprocessing": "d" * 64, "image_pipeline": RULES},
        r"image preprocessing: .*resample bicubic there, bilinear given",
    ),
    ({"normalisation": "l2"}, "normalisation: none there, l2 given"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_each_difference_is_said_in_words_and_the_space_stays(
    change: dict[str, Any], said: str, connection: psycopg.Connection, passport: Passport
) -> None:
    made = create(connection, "spoken", passport.to_dict())
    other = replace(passport, **change)
    with pytest.raises(psycopg.errors.DuplicateObject, match=rf'^space "spoken" exists with another passport \({said}'):
        create(connection, "spoken", other.to_dict())
    assert other.differences(passport)  # models and SQL agree on what counts
    assert create(connection, "spoken", passport.to_dict()) == made


def test_names_places_and_versions_make_no_difference(connection: psycopg.Connection, passport: Passport) -> None:
    made = create(connection, "same", passport.to_dict())
    other = replace(
        passport, model="copy", revision="1" * 40, source="/elsewhere", dtype="bfloat16", libraries={"torch": "9"},
        image_pipeline={**passport.image_pipeline, "note": 1}, towers=None,
    )  # fmt: skip
    assert other.differences(passport) == []
    assert create(connection, "same", {**other.to_dict(), "converted_from": {}, "of a newer version": 3}) == made


def test_several_differences_are_all_named(connection: psycopg.Connection, passport: Passport) -> None:
    create(connection, "several", passport.to_dict())
    with pytest.raises(psycopg.errors.DuplicateObject) as caught:
        create(connection, "several", replace(passport, context_length=77, pooling="mean").to_dict())
    message = str(caught.value.diag.message_primary)
    assert "context length in tokens" in message
    assert "pooling" in message
    assert caught.value.diag.message_hint == "Vectors of two models are never compared: choose another name."


@pytest.mark.parametrize(
    ("name", "better"),
    [("Bad Name", "bad_name"), ("1st", "photos"), ("shop-photos", "shop_photos"), ("", "photos"), ("x" * 41, "x" * 40)],
)
def test_names_that_cannot_be_views_are_refused_with_a_better_one(
    name: str, better: str, connection: psycopg.Connection, client: Sightline
) -> None:
    rule = "it takes lower case letters, digits and _, a letter first, 40 at most"
    create(connection, "named", {})
    for statement, what in (
        ("select sightline.create_space(%s, 'm', 8)", "a space"),
        ("select sightline.create_space('named', 'm', 8, pool => %s)", "a pool"),
        ("select sightline.alias_space(%s, 'named')", "an alias"),
    ):
        with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
            connection.execute(statement, (name,))
        assert caught.value.diag.message_primary == f'"{name}" cannot be the name of {what}; {rule}'
        assert caught.value.diag.message_hint == f"Take {better}, for example."
    refused = pytest.raises(RequestRefused, match=rf"cannot be the name of an alias; .*\(Take {better}, for example")
    with refused, client.database.transaction() as transaction:
        transaction.execute("select sightline.alias_space(%s, 'named')", (name,))


def test_another_pool_is_not_ignored(connection: psycopg.Connection, passport: Passport) -> None:
    made = create(connection, "pooled", passport.to_dict(), pool="large")
    assert create(connection, "pooled", passport.to_dict()) == made
    assert create(connection, "pooled", passport.to_dict(), pool="large") == made
    with pytest.raises(psycopg.errors.DuplicateObject, match='is served by pool "large", not by pool "small"'):
        create(connection, "pooled", passport.to_dict(), pool="small")


def test_client_and_command_say_what_differs(
    client: Sightline, database_url: str, folder: Path, tmp_path: Path
) -> None:
    made = create_space(client.database, "mine", str(folder))
    changed = copy_of(folder, tmp_path / "tiny-clip")
    tokens = (changed / "tokenizer_config.json").read_text()
    (changed / "tokenizer_config.json").write_text(tokens.replace('"model_max_length": 16', '"model_max_length": 9'))
    said = "context length in tokens: 16 there, 9 given"
    with pytest.raises(RequestRefused, match=said):
        create_space(client.database, "mine", str(changed))
    done = subprocess.run(
        [sys.executable, "-m", "sightline", "space", "create", "mine", "--model", str(changed)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "SIGHTLINE_DATABASE_URL": database_url, "SIGHTLINE_REDIS_URL": "redis://127.0.0.1:1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f'sightline: space "mine" exists with another passport ({said})')
    assert done.stderr.count("\n") == 1
    assert create_space(client.database, "mine", str(folder)) == made
