"""A search index over an export's items, as faiss or usearch load it; label r stands for line r of the item ids."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from recbole_derrd.errors import OptionError, did_you_mean
from recbole_derrd.serving.layout import ids_file

#: For each library: its package, the extra that installs it, what kind of index it is, and whether that is exact.
_LIBRARIES = {
    "faiss": ("faiss-cpu", "ann", "IndexFlatIP", True),
    "usearch": ("usearch", "usearch", "HNSW", False),
}


def check_index(name: str, bits: int) -> None:
    """Refuse an index that cannot be written.

    Args:
        name: the library.
        bits: bits of the export's embeddings.

    Raises:
        OptionError: why not, and what to do.
    """
    if name not in _LIBRARIES:
        raise OptionError(f"--index cannot be '{name}'.{did_you_mean(name, _LIBRARIES)}")
    if bits != 32:
        raise OptionError(
            f"An index holds the embeddings in float32, which is more than --bits={bits} would save. Take out --index "
            "or --bits."
        )
    package, extra, *_ = _LIBRARIES[name]
    try:
        importlib.import_module(_module(name))
    except ImportError as error:
        raise OptionError(
            f"--index={name} needs the package {package} ({error}): pip install 'recbole_derrd[{extra}]'."
        ) from error


def _module(name: str) -> str:
    return "usearch.index" if name == "usearch" else name


def index_file(name: str) -> str:
    """Return the name of the index's file in an export."""
    return f"items.{name}"


def write_index(folder: Path, name: str, items: np.ndarray[Any, Any]) -> None:
    """Write an index of the items by inner product.

    Args:
        folder: the export.
        name: faiss or usearch.
        items: float32 [n, d]; row r has the label r.
    """
    library = importlib.import_module(_module(name))
    if name == "faiss":
        index = library.IndexFlatIP(items.shape[1])
        index.add(items)
        content = library.serialize_index(index).data
    else:
        index = library.Index(ndim=items.shape[1], metric="ip", dtype="f32")
        index.add(np.arange(len(items)), items)
        content = index.save()
    # Python's own file says in an error that the disk is full, which neither library does.
    with open(folder / index_file(name), "wb") as file:
        file.write(content)


def described(name: str) -> dict[str, Any]:
    """Return what a card says of an index."""
    _, _, kind, exact = _LIBRARIES[name]
    return {
        "library": name,
        "file": index_file(name),
        "type": kind,
        "exact": exact,
        "metric": "inner product",
        "labels": f"label r is line r (from 0) of {ids_file('item')}",
    }


def usage(index: dict[str, Any]) -> list[str]:
    """Return what the README of an export says of its index."""
    found = "exact" if index["exact"] else "approximate: a few of the best items may be missing"
    lines = [
        f"`{index['file']}` is an index of the items for {index['library']} ({index['type']}, {found}) by **inner "
        f"product**. Label r stands for line r, from 0, of `{ids_file('item')}`. It knows nothing of seen items.",
        "",
        "```python",
        "import json",
        "",
    ]
    if index["library"] == "faiss":
        lines += [
            "import faiss",
            "",
            f'index = faiss.read_index("{index["file"]}")',
            "scores, labels = index.search(users, 10)  # users: float32 [n, d], rows of the users' embeddings",
            "rows = labels[0]",
        ]
    else:
        lines += [
            "from usearch.index import Index",
            "",
            f'index = Index.restore("{index["file"]}")',
            "rows = index.search(user, 10).keys  # user: float32 [d]; a distance is 1 - score",
        ]
    return [
        *lines,
        f'ids = [json.loads(line) for line in open("{ids_file("item")}", encoding="ascii")]',
        "items = [ids[row] for row in rows]",
        "```",
    ]
