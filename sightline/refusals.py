"""What the database's constraints mean, in words: their names are nothing to show to a user."""

from __future__ import annotations

import psycopg

_NAME = "lower case letters, digits and _, beginning with a letter, at most 40 characters"

_MEANING = {
    "space_name_check": f"the name of a space is {_NAME}",
    "space_alias_alias_check": f"an alias is {_NAME}",
    "space_pool_check": f"the name of a pool is {_NAME}",
    "space_dim_check": "a space has 1 to 4000 dimensions",
    "space_modalities_check": "the modalities of a space are image, text or both",
    "collection_name_check": "the name of a collection has 1 to 200 characters",
    "item_external_id_check": "an external_id has 1 character or more, and at most 2000 bytes",
    "item_metadata_check": "metadata must be a JSON object",
    "job_lane_check": "the lane is one of interactive, normal, bulk",
    "embedding_item_id_fkey": "there is no such item, or it was deleted meanwhile",
    "item_blob_digest_fkey": "no content of this digest was uploaded",
}


def refusal(error: psycopg.Error) -> str:
    """One line that says what the database refused, and why."""
    diag = error.diag
    hint = f" ({diag.message_hint})" if diag.message_hint else ""
    if diag.constraint_name in _MEANING:
        return f"{_MEANING[diag.constraint_name]}{hint}"
    if diag.constraint_name:
        # Of a constraint that a user cannot meet by a wrong value: its name is for whoever mends it.
        detail = f": {diag.message_detail}" if diag.message_detail else ""
        return f"the values do not fit the table {diag.table_name}, by its rule {diag.constraint_name}{detail}{hint}"
    return f"{diag.message_primary or error}{hint}"
