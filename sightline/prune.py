"""Pruning: deleting the items of a folder whose files are no longer there."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sightline.database import Database
from sightline.errors import PolicyRefused, UsageError
from sightline.item import is_folder, printable, root_name
from sightline.progress import progress_bar

_PAGE = 2000
MAX_SHARE = 0.5
"""The share of a folder's items that may be gone; above it, a disk that is not mounted is likelier than a clean-up."""


@dataclass(frozen=True)
class Pruned:
    """What pruning a folder did, or would do.

    Args:
        folder: as given.
        stored: items of the collection that ingest named by their path below it.
        gone: of those, how many have no file any more.
        deleted: of those, how many were deleted.
        problem: why nothing was deleted; None where nothing stands in the way.
    """

    folder: str
    stored: int
    gone: int
    deleted: int = 0
    problem: str | None = None


def prune(
    database: Database,
    collection: str,
    folders: Iterable[Path],
    root: Path | None = None,
    *,
    everything: bool = False,
    dry_run: bool = False,
    progress: bool = False,
) -> list[Pruned]:
    """Delete items whose file is gone, with their vectors: those that an ingest named by their path below a folder.

    Items that were named otherwise (an external_id of their own, texts, bytes) or that come from another root are never
    touched. A file counts as gone only if the operating system says that it does not exist.

    Args:
        database: where the items are.
        collection: its name.
        folders: as they were given to ingest.
        root: as it was given to ingest.
        everything: go on where more than half of a folder's items are gone.
        dry_run: only count.
        progress: show on stderr how many files were looked up.

    Raises:
        UsageError: a folder is none, or does not lie below `root`.
        PolicyRefused: more than half are gone, or a file cannot be looked up. No folder was pruned then.
    """
    looked_up = [_look_up(database, collection, folder, root, everything, progress=progress) for folder in folders]
    if dry_run:
        return [found for found, _ in looked_up]
    for found, _ in looked_up:
        if found.problem is not None:
            raise PolicyRefused(f"nothing was pruned: {found.problem}")
    return [
        Pruned(found.folder, found.stored, found.gone, sum(_delete(database, batch) for batch in _batches(gone)))
        for found, gone in looked_up
    ]


_Gone = tuple[int, str]  # item_id, path of its file


def _look_up(
    database: Database, collection: str, folder: Path, root: Path | None, everything: bool, *, progress: bool
) -> tuple[Pruned, list[_Gone]]:
    if not is_folder(folder):
        raise UsageError(f"only folders can be pruned: {folder} is none")
    base = root or folder
    if not folder.is_relative_to(base):
        raise UsageError(f"{folder} does not lie below the root {base}")
    below = printable(folder.relative_to(base))
    stored, gone, problem = 0, [], None
    with progress_bar("looked up", enabled=progress) as advance:
        for page in _pages(database, collection, root_name(base), "" if below == "." else f"{below}/"):
            for item_id, external_id in page:
                path = os.path.join(base, external_id)  # noqa: PTH118 - of a million items
                try:
                    if not _is_there(path):
                        gone.append((item_id, path))
                except OSError as error:
                    problem = f"{external_id} cannot be looked up: {error.strerror}"
            stored += len(page)
            advance(len(page))
    if problem is None and len(gone) > stored * MAX_SHARE and not everything:
        problem = (
            f"{len(gone):,} of {stored:,} items of {folder} are gone, more than half; "
            "if that is meant, prune with everything=True (--prune-all)"
        )
    return Pruned(str(folder), stored, len(gone), problem=problem), gone


def _pages(database: Database, collection: str, root: str, prefix: str) -> Iterator[list[tuple[int, str]]]:
    """Items of a root, by external_id, a page at a time: no transaction stays open while files are looked up."""
    after = ""
    while True:
        with database.transaction() as connection:
            page = connection.execute(
                "select i.item_id, i.external_id from sightline.item i "
                "where i.collection_id = (select c.collection_id from sightline.collection c where c.name = %s) "
                "and i.external_id > %s and i.root = %s and starts_with(i.external_id, %s) "
                "order by i.external_id limit %s",
                (collection, after, root, prefix, _PAGE),
            ).fetchall()
        if page:
            yield page
        if len(page) < _PAGE:
            return
        after = page[-1][1]


def _is_there(path: str) -> bool:
    """Whether a path is one of an item: a file, or whatever ingest would name as unreadable, but no folder.

    Raises:
        OSError: nobody can tell.
    """
    names: list[str | bytes] = [path]
    if "\\x" in path:  # a name that is not UTF-8 was stored with escapes
        names.append(re.sub(rb"\\x([0-9a-f]{2})", lambda hex_: bytes.fromhex(hex_[1].decode()), os.fsencode(path)))
    for name in names:
        try:
            if not stat.S_ISDIR(os.lstat(name).st_mode):
                return True
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
    return False


def _batches(gone: list[_Gone]) -> Iterator[list[int]]:
    """Ids to delete, in order; each file is looked up once more, for it may have come back."""
    gone = sorted(gone)
    for start in range(0, len(gone), _PAGE):
        yield [item_id for item_id, path in gone[start : start + _PAGE] if not _is_there(path)]


def _delete(database: Database, item_ids: list[int]) -> int:
    with database.transaction() as connection:
        return connection.execute("delete from sightline.item where item_id = any(%s)", (item_ids,)).rowcount
