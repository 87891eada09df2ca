"""The columns of an exported item, which an import understands; and parquet, which needs an extra."""

from __future__ import annotations

from typing import Any

from sightline.errors import ConfigurationError

EXPORT_COLUMNS = (
    "external_id", "collection", "modality", "uri", "text", "digest", "group_key", "metadata", "norm",
)  # fmt: skip
"""`digest` is the sha256 of the content in hex, `metadata` a JSON object (in parquet its text), `norm` the L2 norm that
the vector had before it was normalised."""

VECTOR_COLUMN = "vector"
PASSPORT_FILE = "passport.json"


def pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        ConfigurationError: they are not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigurationError("parquet files need pyarrow: pip install 'sightline[parquet]'") from error
    return arrow, parquet
