"""`sightline demo`: the main job from nothing, in one command."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from psycopg.types.json import Jsonb
from rich.markup import escape
from rich.syntax import Syntax

from sightline.cli.ingest import read_jsonl, report
from sightline.cli.output import configure_logging, out
from sightline.cli.search import print_hits
from sightline.client import Sightline
from sightline.contact_sheet import Section, write_contact_sheet
from sightline.embedded.stack import running_stack
from sightline.errors import ServiceMissing, UsageError
from sightline.item import Ingestible, Item
from sightline.results import Hits
from sightline.services import running_services
from sightline.settings import Settings
from sightline.space import create_space, ensure_default_space, index_space, space_name

SCENE_QUERIES: dict[str, dict[str, str]] = {
    "a yellow star": {"colour": "yellow", "shape": "star"},
    "a large red circle": {"size": "large", "colour": "red", "shape": "circle"},
    "a striped blue square": {"texture": "striped", "colour": "blue", "shape": "square"},
    "a pink heart": {"colour": "pink", "shape": "heart"},
    "a dotted purple arrow": {"texture": "dotted", "colour": "purple", "shape": "arrow"},
}
"""Queries in words, and what they claim: a scene is a right hit when one of its things has all these attributes."""

PHOTO_QUERIES = ("a person", "an animal", "a building", "a landscape", "something to eat")
HITS = 6


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    images: Annotated[Path | None, typer.Option(help="A folder of your own images (default: rendered scenes).")] = None,
    model: Annotated[
        str | None, typer.Option(help="Hugging Face id or folder of a model (default: the bundled one).")
    ] = None,
    query: Annotated[list[str] | None, typer.Option(help="Your own text queries; may be repeated.")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes to render.")] = 2000,
    sheet: Annotated[Path, typer.Option(help="Where to write the contact sheet.")] = Path("sightline-demo.html"),
) -> None:
    """Ingest images, encode them on a worker, search them in words and in SQL, and write a contact sheet of the hits.

    Example: sightline demo --images ~/photos --model openai/clip-vit-base-patch32
    """
    settings = Settings()
    configure_logging("warning")
    if images is not None and not images.is_dir():
        raise UsageError(f"there is no folder {images}")
    with ExitStack() as undo:
        if settings.database_url is None and running_stack(settings.home) is not None:
            client = undo.enter_context(Sightline(settings=settings))
        else:
            began = time.monotonic()
            services = undo.enter_context(running_services(settings))
            where = f"Postgres, Redis and a worker run in {settings.home}" if services.stack else "a worker runs"
            out.print(f"{where} ({time.monotonic() - began:.1f} s)")
            client = undo.enter_context(Sightline(services.database_url, services.redis_url, settings=settings))
        _Demo(client, settings, images, model, query, scenes).run(sheet)


class _Demo:
    """One run of the demo."""

    def __init__(
        self,
        client: Sightline,
        settings: Settings,
        images: Path | None,
        model: str | None,
        queries: list[str] | None,
        scenes: int,
    ) -> None:
        self.client = client
        self.settings = settings
        self.images = images
        self.queries = queries or list(PHOTO_QUERIES if images else SCENE_QUERIES)
        self.scenes = scenes
        self.collection = "demo" if images is None else f"demo {images.resolve().name}"
        self.space = self._make_space(model)

    def run(self, sheet: Path) -> None:
        """Ingest, search, write the sheet."""
        self._ingest()
        index_space(self.client.database, self.space)
        sections = [self._search(text) for text in self.queries]
        sections.append(self._search_by_image(sections[0].hits))
        self._plain_sql(sections[0])
        write_contact_sheet(self.client, sheet, f"sightline demo: {self.collection}", self._model_line(), sections)
        out.print(f"\ncontact sheet: {sheet.resolve()}")
        out.print("next: `sightline up` keeps it running; `sightline search 'a white moon'`; docs/query-in-sql.md")

    def _make_space(self, model: str | None) -> str:
        if model is None:
            return ensure_default_space(self.client.database, self.settings.model)
        name = space_name(model)
        create_space(self.client.database, name, model)
        return name

    def _model_line(self) -> str:
        space = self.client.space(self.space)
        note = ""
        if space.model == "sightline/scenes-dual-encoder":
            note = (
                " (bundled: trained on rendered scenes only; for photographs pass --model openai/clip-vit-base-patch32)"
            )
        return f"model {space.model}, {space.dim} dimensions{note}"

    def _ingest(self) -> None:
        out.print(self._model_line())
        items: list[Ingestible] = [Item(text=text, external_id=text) for text in self.queries]
        if self.images is not None:
            items.append(self.images)
        else:
            items += read_jsonl(self._render())
        job = self.client.ingest(items, collection=self.collection, space=self.space, progress=True)
        began = time.monotonic()
        ended = job.wait(progress=True)
        report(job, ended, exit_on_failure=False)
        if ended.done:
            out.print(f"{ended.done / (time.monotonic() - began):,.0f} items/s from Postgres to Postgres")

    def _render(self) -> Path:
        """Scenes of the test split: the bundled model has never seen them."""
        folder = self.settings.home / "scenes"
        command = [sys.executable, "-m", "models.scenes.export", "--out", str(folder), "--count", str(self.scenes)]
        with out.status(f"rendering {self.scenes:,} scenes ..."):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServiceMissing(f"the scenes cannot be rendered: {done.stderr.strip().splitlines()[-1:]}")
        return Path(done.stdout.strip())

    def _search(self, text: str) -> Section:
        began = time.perf_counter()
        hits = self.client.search(text=text, k=HITS, collection=self.collection, space=self.space)
        milliseconds = 1000 * (time.perf_counter() - began)
        section = Section(text, None, hits, _right(text, hits) if self.images is None else [])
        verdict = ""
        if section.right:
            right = sum(section.right)
            verdict = f"; {right} of {len(hits)} hits are right by the scenes' truth, {self._fitting(text)} scenes are"
        out.print(f"\n[bold]{escape(text)}[/bold]  ({milliseconds:.0f} ms{verdict})")
        print_hits(hits, section.right)
        return section

    def _fitting(self, text: str) -> int:
        """How many scenes of the collection show what the query claims."""
        with self.client.database.transaction() as connection:
            row = connection.execute(
                "select count(*) from sightline.item join sightline.collection c using (collection_id) "
                "where c.name = %s and metadata @> %s",
                (self.collection, Jsonb({"things": [SCENE_QUERIES[text]]})),
            ).fetchone()
        assert row is not None
        return int(row[0])

    def _search_by_image(self, hits: Hits) -> Section:
        """Search with the picture of the first hit; the hit itself comes first, its likes follow."""
        if not hits:
            return Section("an image query needs an image", None, hits)
        picture = self.client.image_bytes(hits[0].item_id)
        found = self.client.search(image=picture, k=HITS, collection=self.collection, space=self.space)
        title = f"images like {hits[0].external_id}"
        out.print(f"\n[bold]{escape(title)}[/bold]")
        print_hits(found)
        return Section(title, hits[0], found)

    def _plain_sql(self, section: Section) -> None:
        """The first query again, as SQL alone: the query text is a stored item, its vector a row."""
        quoted = section.title.replace("'", "''")
        collection = self.collection.replace("'", "''")
        statement = (
            "select n.external_id, round(n.score::numeric, 3) as score, i.metadata->'kinds' as kinds\n"
            f"from sightline.nearest('{self.space}',\n"
            f"       (select embedding from sightline.{self.space}_text\n"
            f"        where external_id = '{quoted}' and collection = '{collection}'),\n"
            f"       {HITS}, collection => '{collection}') n\n"
            "join sightline.item i using (item_id) order by n.distance;"
        )
        out.print('\nthe first query as SQL, for psql "$(sightline dsn)" while `sightline up` runs:')
        out.print(Syntax(statement, "sql", background_color="default", word_wrap=False))
        with self.client.database.transaction() as connection:
            rows = connection.execute(statement).fetchall()
        same = [row[0] for row in rows] == [hit.external_id for hit in section.hits]
        out.print(f"it returns the same {len(rows)} images" if same else f"it returns {[row[0] for row in rows]}")


def _right(text: str, hits: Hits) -> list[bool]:
    """Whether each hit shows what the query claims, by the truth of its scene; empty for a query of the user's own."""
    claim = SCENE_QUERIES.get(text)
    if claim is None:
        return []
    return [
        any(all(thing[key] == value for key, value in claim.items()) for thing in hit.metadata["things"])
        for hit in hits
    ]
