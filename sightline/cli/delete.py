"""`sightline delete`: items with all that was made of them, and content that nobody uses."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sightline.cli.output import MAX_ID, CollectionOption, JsonOption, err, out, print_json
from sightline.client import Sightline
from sightline.deletion import Deleted
from sightline.errors import PolicyRefused, UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(delete)


def delete(
    collection: CollectionOption = None,
    external_id: Annotated[
        list[str] | None, typer.Option("--external-id", help="Only this item of the collection; may be repeated.")
    ] = None,
    item: Annotated[
        list[int] | None, typer.Option("--item", min=1, max=MAX_ID, help="Only this item_id; may be repeated.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, max=36500, help="Only items that were last changed so many days ago.")
    ] = None,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Uploaded content that no item has used for a day, instead of items.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete more than what is named one by one.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete items, with their vectors, captions and uploaded content that no other item uses.

    All options that are given must hold. Without --yes a whole collection, or what is older than some days, is only
    counted. Files under media roots are not touched. It cannot be undone.

    Example: sightline delete --collection shop --external-id ad-1
    """
    if orphans and (collection or external_id or item or older_than is not None):
        raise UsageError("--orphans goes alone: it is about content that belongs to no item")
    if (not orphans and not (collection or item)) or (external_id and not collection):
        raise UsageError("say what to delete: --collection, --external-id with its --collection, --item or --orphans")
    age = None if older_than is None else timedelta(days=older_than)
    with Sightline() as client:
        if orphans:
            deleted = client.delete_orphans()
        else:
            count = client.count_items(collection=collection, external_ids=external_id, item_ids=item, older_than=age)
            if not (yes or external_id or item) and count:
                raise PolicyRefused(f"that would delete {count:,} items of collection {collection}; --yes does")
            columns = (TextColumn("deleting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=err, transient=True, disable=as_json or count < 1000) as bar:
                task = bar.add_task("deleting", total=count)
                deleted = client.delete(
                    collection=collection, external_ids=external_id, item_ids=item, older_than=age,
                    on_progress=lambda items: bar.advance(task, items),
                )  # fmt: skip
    if as_json:
        print_json(deleted)
    else:
        out.print(_told(deleted), highlight=False)


def _told(deleted: Deleted) -> str:
    content = f"{deleted.blobs:,} uploaded contents ({deleted.bytes:,} bytes)"
    return f"deleted {deleted.items:,} items, {deleted.vectors:,} vectors, {deleted.captions:,} captions, {content}"
