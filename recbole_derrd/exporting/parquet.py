"""Parquet by pyarrow, which the extra ``export`` installs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_ROWS = 1 << 18


def write_table(path: Path, side: str, ids: Sequence[str], embeddings: np.ndarray[Any, Any]) -> None:
    """Write one row an entity: its id, and its embedding as a list of fixed size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    table = pa.table({f"{side}_id": pa.array(ids, pa.string()), "embedding": vectors})
    pq.write_table(table.replace_schema_metadata({"score": "inner product"}), path)


def write_rankings(path: Path, rows: Iterable[tuple[str, int, str, float]]) -> int:
    """Write rows of (user, rank, item, score); return how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = [("user_id", pa.string()), ("rank", pa.int32()), ("item_id", pa.string()), ("score", pa.float32())]
    schema, pending, written = pa.schema(kinds), iter(rows), 0
    with pq.ParquetWriter(path, schema) as writer:
        while block := list(itertools.islice(pending, _ROWS)):
            columns = [pa.array(column, kind) for column, (_, kind) in zip(zip(*block), kinds)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            written += len(block)
    return written
