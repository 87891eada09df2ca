"""Write rendered scenes to a folder: PNG files and `items.jsonl` with the truth of each as metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from models.scenes.render import png_bytes
from models.scenes.sample import sample_scene


def export_scenes(folder: Path, count: int, *, split: str = "test", first: int = 0, size: int = 160) -> Path:
    """Render `count` scenes of a split from number `first`; returns the file that `sightline ingest --jsonl` reads.

    A scene that is there already is not rendered again: the same split and number give the same picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "items.jsonl"
    with listing.open("w", encoding="utf-8") as lines:
        for number in range(first, first + count):
            scene = sample_scene(number, split_name=split)
            name = f"scene-{split}-{number:06d}.png"
            if not (folder / name).exists():
                partial = folder / f".{name}.partial"
                partial.write_bytes(png_bytes(scene, size))
                partial.rename(folder / name)
            # Beside the full truth, flat fields that a filter on metadata can reach.
            kinds = [f"{thing.colour} {thing.shape}" for thing in scene]
            metadata = {"n": len(scene), "kinds": kinds, **scene.to_metadata()}
            lines.write(json.dumps({"path": name, "metadata": metadata}) + "\n")
    return listing


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    count: Annotated[int, typer.Option(help="How many scenes.")] = 2000,
    split: Annotated[str, typer.Option(help="train, validation, test or unseen.")] = "test",
    first: Annotated[int, typer.Option(help="Number of the first scene.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the picture in pixels.")] = 160,
) -> None:
    """Render scenes with exact truth."""
    typer.echo(export_scenes(out, count, split=split, first=first, size=size))


if __name__ == "__main__":
    typer.run(main)
