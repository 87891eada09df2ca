"""Captions of stored scenes, written by a real worker with the bundled models: by SQL, Python and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from models.scenes.parse import parse
from sightline.client import Sightline
from sightline.errors import ContractViolated, RequestRefused
from sightline.item import Item

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def shop(services: object, client: Sightline, scenes: Path) -> str:
    """24 stored scenes; the first has a caption of its owner, and one item is no image at all."""
    items: list[Item] = []
    for number, path in enumerate(sorted(scenes.glob("*.png"))[:24]):
        metadata = {"caption": "my favourite scene", "user": "anna"} if number == 0 else {}
        items.append(Item(path=path, external_id=path.name, metadata=metadata))
    client.ingest([*items, Item(text="a text", external_id="text")], collection="shop").wait(timeout=90)
    return "shop"


@pytest.fixture
def captions(client: Sightline) -> Callable[..., Rows]:
    def read(where: str = "true") -> Rows:
        with client.database.transaction() as connection:
            row = connection.execute(
                f"select coalesce(json_agg(c order by external_id, n), '[]') from sightline.captions c where {where}"
            ).fetchone()
        assert row is not None
        return row[0]

    return read


def test_python_captions_every_image_of_a_collection_and_no_text(
    shop: str, client: Sightline, captions: Callable[..., Rows]
) -> None:
    ended = client.caption(shop).wait(timeout=90)
    assert (ended.kind, ended.submitted, ended.done, ended.failed) == ("caption", 24, 24, 0)
    rows = captions("recipe = 'describe'")
    assert len(rows) == 24
    assert all(parse(row["text"]) is not None for row in rows)  # it speaks of scenes
    for row in rows:
        assert (row["model"], row["lang"], row["n"], row["stale"], row["selected"]) == (
            "sightline/scenes-captioner", "en", 0, False, False,
        )  # fmt: skip
        assert -1 <= row["alignment"] <= 1
        assert 0 <= row["match"] <= 1
        assert row["score"] <= 0
        assert row["params"]["temperature"] == 0
    assert sum(row["match"] for row in rows) / 24 > 0.6  # of true captions; those of other images are below
    # What is there already is not written again, for it would be the same.
    before = {row["caption_id"]: row["written_at"] for row in rows}
    assert client.caption(shop).wait(timeout=60).done == 24
    assert {row["caption_id"]: row["written_at"] for row in captions("recipe = 'describe'")} == before


def test_a_sweep_in_sql_keeps_every_caption_with_its_parameters(
    shop: str, client: Sightline, connection: psycopg.Connection, captions: Callable[..., Rows]
) -> None:
    for gamma in (1.5, 3):
        payload = json.dumps({"recipe": "guided", "params": {"gamma": gamma}})
        (job_id,) = connection.execute("select sightline.submit('caption', %s, 'shop')", (payload,)).fetchone()
        assert client.job(job_id).wait(timeout=90).done == 24
    rows = captions("recipe = 'guided'")
    assert sorted({row["params"]["gamma"] for row in rows}) == [1.5, 3]
    assert len({row["params_digest"] for row in rows}) == 2
    assert len(rows) == 48


def test_the_command_line_captions_with_progress_and_embeds(
    shop: str, client: Sightline, connection: psycopg.Connection, captions: Callable[..., Rows]
) -> None:
    command = [sys.executable, "-m", "sightline", "caption", "--collection", shop, "--recipe", "best-of-n",
               "--params", "n=3", "--params", "k=5", "--embed", "--json"]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert (ended["kind"], ended["done"], ended["failed"]) == ("caption", 24, 0)
    rows = captions("recipe = 'best-of-n'")
    assert len(rows) == 24
    own = {row["item_id"] for row in rows}
    for row in rows:
        told_from = row["provenance"]["told_from"]
        assert len(told_from) == 5
        assert row["item_id"] not in told_from
        assert set(told_from) <= own
        assert row["score"] == pytest.approx(sum(row["scores"].values()), abs=1e-4)
    texts = connection.execute(
        "select i.external_id, i.text, i.parent_id, e.item_id is not null from sightline.item i "
        "left join sightline.embedding e using (item_id) where i.caption_id is not null"
    ).fetchall()
    assert {(text, parent) for _, text, parent, _ in texts} == {(row["text"], row["item_id"]) for row in rows}
    assert all(encoded for _, _, _, encoded in texts)
    assert {name for name, _, _, _ in texts} == {f"sightline:caption/{row['caption_id']}" for row in rows}
    # They are no items of the collection: neither a search for texts nor another job comes upon them.
    hits = client.search(text=rows[0]["text"], modality="text", collection=shop, k=10)
    assert [hit.external_id for hit in hits] == ["text"]
    assert client.caption(shop).wait(timeout=60).submitted == 24


def test_wrong_captions_are_negatives_and_never_selected(
    shop: str, client: Sightline, captions: Callable[..., Rows]
) -> None:
    full = client.caption(shop, params={"prompt": "<|full|>"})
    assert full.wait(timeout=90).done == 24
    job = client.caption(shop, recipe="counterfactual", params={"sources": ["describe"]}, embed=True)
    ended = job.wait(timeout=120)
    assert ended.done + ended.failed == 24
    assert ended.done > 18
    assert all(failure.error_class == "InvalidInput" for failure in job.failures())
    assert job.followers() == []  # wrong captions are not embedded
    wrong = captions("recipe = 'counterfactual'")
    assert all(row["negative"] and row["text"] != row["provenance"]["from"] for row in wrong)
    assert {row["provenance"]["kind"] for row in wrong} == {"count", "colour", "relation"}
    assert all(row["scores"]["true"] > row["scores"]["wrong"] for row in wrong)
    assert client.select_best(collection=shop) == 24
    chosen = captions("selected")
    assert len({row["item_id"] for row in chosen}) == 24
    assert not any(row["negative"] for row in chosen)
    best = {}
    for row in captions("not negative and recipe <> 'own'"):
        best[row["item_id"]] = max(best.get(row["item_id"], -1), row["match"])
    assert all(row["match"] == pytest.approx(best[row["item_id"]]) for row in chosen)
    assert client.select_best("alignment", collection=shop, recipes=["guided"]) == 24
    assert {row["recipe"] for row in captions("selected")} == {"guided"}


def test_the_owners_caption_stands_beside_the_others_and_nothing_hides_it(
    shop: str, client: Sightline, captions: Callable[..., Rows]
) -> None:
    client.select_best(collection=shop)
    (own,) = captions("recipe = 'own'")
    assert (own["text"], own["caption_id"], own["selected"], own["stale"]) == ("my favourite scene", None, False, False)
    with client.database.transaction() as connection, pytest.raises(psycopg.errors.CheckViolation, match="own"):
        connection.execute("update sightline.caption set recipe = 'own'")


def test_a_bad_image_fails_by_name_and_its_neighbours_are_captioned(
    services: object, client: Sightline, scenes: Path, captions: Callable[..., Rows]
) -> None:
    paths = sorted(scenes.glob("*.png"))[30:33]
    items = [Item(path=path, external_id=path.name) for path in paths]
    client.ingest([*items, Item(data=b"no image", external_id="bad")], collection="mixed").wait(timeout=60)
    job = client.caption("mixed")
    ended = job.wait(timeout=60)
    assert (ended.done, ended.failed) == (3, 1)
    (failure,) = job.failures()
    assert (failure.external_id, failure.error_class) == ("bad", "NotAnImage")
    assert "bad" in failure.message
    assert len(captions("collection = 'mixed'")) == 3


def test_what_cannot_be_done_is_refused_when_it_is_submitted(shop: str, client: Sightline) -> None:
    with pytest.raises(ContractViolated, match='unknown recipe "paint"; recipes: best-of-n'):
        client.caption(shop, recipe="paint")
    with pytest.raises(ContractViolated, match="gamma must be a number from 1 to 10, not 0"):
        client.caption(shop, recipe="guided", params={"gamma": 0})
    with pytest.raises(RequestRefused, match='no collection named "nowhere"'):
        client.caption("nowhere")


def test_a_model_that_the_workers_do_not_have_fails_every_image_with_what_to_do(
    shop: str, client: Sightline, captions: Callable[..., Rows]
) -> None:
    job = client.caption(shop, model="another/captioner")
    assert job.wait(timeout=60).failed == 24
    assert "SIGHTLINE_CAPTIONER_MODEL" in job.failures(limit=1)[0].message


def test_a_changed_image_makes_its_captions_stale_until_they_are_written_anew(
    services: object, client: Sightline, scenes: Path, captions: Callable[..., Rows]
) -> None:
    first, second = sorted(scenes.glob("*.png"))[40:42]
    client.ingest([Item(data=first.read_bytes(), external_id="x")], collection="changing").wait(timeout=60)
    client.caption("changing").wait(timeout=60)
    (old,) = captions("collection = 'changing'")
    client.ingest([Item(data=second.read_bytes(), external_id="x")], collection="changing").wait(timeout=60)
    assert [row["stale"] for row in captions("collection = 'changing'")] == [True]
    assert client.select_best(collection="changing") == 0
    client.caption("changing").wait(timeout=60)
    (new,) = captions("collection = 'changing'")
    assert (new["stale"], new["caption_id"]) == (False, old["caption_id"])


@pytest.fixture(autouse=True)
def nothing_is_lost(client: Sightline) -> Iterator[None]:
    yield
    with client.database.transaction() as connection:
        wrong = connection.execute(
            "select * from sightline.job_progress where finished_at is not null and submitted <> done + failed + skipped + cancelled"
        ).fetchall()
    assert wrong == []
