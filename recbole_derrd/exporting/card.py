"""What an export says of itself: the card for programs, the README for people."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from recbole_derrd.config.distill_config import model_settings
from recbole_derrd.data.atomic_files import content_digest
from recbole_derrd.exporting.checkpoint import Trained
from recbole_derrd.exporting.index import described, usage
from recbole_derrd.exporting.request import Request
from recbole_derrd.exporting.scores import Embeddings
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.report.environment import versions
from recbole_derrd.serving.layout import TOP, TOP_PARQUET
from recbole_derrd.teacher.checkpoint_settings import loads_a_file


def about(request: Request, trained: Trained, embeddings: Embeddings | None, rows: int | None) -> dict[str, Any]:
    """Return all that a card says beside format and files, as plain values."""
    config, history = trained.config, trained.data.history
    card: dict[str, Any] = {
        "model": config["model"],
        "score": "the model's own" if embeddings is None else "inner product",
        "users": history.n_users - 1,
        "items": history.n_items - 1,
        "embedding": None if embeddings is None else _embedding(request, embeddings),
        "index": None if request.index is None else described(request.index),
        "seen": True,
        "method": _methods(trained.distillers),
        "data": {
            "dataset": config["dataset"],
            "training_interactions": len(history.items),
            "eval_args": config["eval_args"],
            "seed": config["seed"],
            "fingerprint": dataclasses.asdict(trained.data.fingerprint),
        },
        "metrics": _metrics(trained),
        "top": None if rows is None else _top(request, rows),
        "settings": {key: config[key] for key in model_settings(config["model"]) if not loads_a_file(key)},
        "checkpoint": {"file": request.checkpoint.name, "digest": content_digest(request.checkpoint)},
        "command": request.command,
        "versions": versions(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(card, default=str))
    return plain


def _embedding(request: Request, embeddings: Embeddings) -> dict[str, Any]:
    return {
        "size": embeddings.size,
        "bits": embeddings.bits,
        **({} if embeddings.user_bits is None else {"user_bits": embeddings.user_bits}),
        **_codebooks(embeddings),
        "format": request.kind,
        "units": embeddings.units or None,
        "bytes_per_item": embeddings.bytes_a_row("item"),
        "bytes_per_user": embeddings.bytes_a_row("user"),
    }


def _codebooks(embeddings: Embeddings) -> dict[str, int]:
    """Return how many codebooks the items share, and their bytes; nothing where they have none."""
    if not embeddings.item_codebooks:
        return {}
    return {
        "item_codebooks": embeddings.item_codebooks,
        "codebook_bytes": embeddings.arrays["item"]["codebooks"].nbytes,
    }


def _top(request: Request, rows: int) -> dict[str, Any]:
    seen = "kept" if request.keep_seen else "left out"
    return {
        "count": request.top,
        "rows": rows,
        "seen_items": seen,
        "file": TOP_PARQUET if request.kind == "parquet" else TOP,
    }


def _methods(names: list[str] | None) -> list[dict[str, str]] | None:
    """Return the methods that a student was distilled by, with what to cite; None where the file does not say."""
    if names is None:
        return None
    return [
        {"name": name, "citation": str(method_class(name).citation)} if name in METHODS else {"name": name}
        for name in names
    ]


def _metrics(trained: Trained) -> dict[str, Any]:
    """Return the validation score that the checkpoint holds, where it holds one."""
    value = trained.content.get("best_valid_score")
    value = value.item() if isinstance(value, np.generic) else value
    usual = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
    return {"valid": {str(trained.config["valid_metric"]).lower(): float(value)}} if usual else {}  # type: ignore[arg-type]


def summary(card: dict[str, Any], out: Path) -> str:
    """Return what the command line says of a finished export."""
    embedding, top = card["embedding"], card["top"]
    lines = [f"{card['model']} on {card['data']['dataset']}: {card['users']:,} users, {card['items']:,} items."]
    if embedding:
        lines.append(
            f"Embeddings of {embedding['size']} dimensions in {_bits_or_codebooks(embedding)}, "
            f"{embedding['bytes_per_item']} bytes an item; the score is the inner product."
        )
    else:
        lines += _without_embeddings(card)
    if card["index"]:
        lines.append(f"Index: {card['index']['file']} ({card['index']['type']}, inner product).")
    if top:
        lines.append(f"Rankings: {top['rows']:,} rows, seen items {top['seen_items']}.")
    return "\n".join([*lines, f"Export: {out}", ""])


def readme(card: dict[str, Any]) -> str:
    """Return the README.md of an export."""
    data, embedding, top = card["data"], card["embedding"], card["top"]
    lines = [f"# {card['model']} on {data['dataset']}", ""]
    lines += [f"{card['users']:,} users, {card['items']:,} items, trained on {data['training_interactions']:,} "]
    lines[-1] += f"interactions (seed {data['seed']})."
    for method in card["method"] or ():
        lines += ["", f"Distilled by {method['name']}. {method.get('citation', '')}".rstrip()]
    for name, value in card["metrics"].get("valid", {}).items():
        lines += ["", f"{name} on the validation split, as the checkpoint says: {value:.4f}."]
    lines += ["", *(_with_embeddings(card) if embedding else _without_embeddings(card))]
    if card["index"]:
        lines += ["", *usage(card["index"])]
    if top:
        lines += ["", f"`{top['file']}` holds {top['rows']:,} rows `user_id, rank, item_id, score`: each user's "]
        lines[-1] += f"top-{top['count']} ranking, with the user's training items {top['seen_items']}."
    lines += [
        "",
        "`user_ids.jsonl` and `item_ids.jsonl` hold the data set's own ids, one JSON text a line, in the order of all",
        "rows; there is no padding row. `seen.indptr.npy` and `seen.items.npy` are each user's training items: those",
        "of row r are `seen.items[indptr[r]:indptr[r + 1]]`. `card.json` has everything else, and checksums.",
        "",
    ]
    if card["command"]:
        lines += ["Made by:", "", "```", card["command"], "```", ""]
    return "\n".join(lines)


def _with_embeddings(card: dict[str, Any]) -> list[str]:
    embedding = card["embedding"]
    bits = "float32" if embedding["bits"] == 32 else f"{embedding['bits']} bits a dimension"
    if "item_codebooks" in embedding:
        bits = _bits_or_codebooks(embedding)
    if embedding.get("user_bits", embedding["bits"]) != embedding["bits"]:
        other = embedding["user_bits"]
        bits += f" (the users' in {'float32' if other == 32 else f'{other} bits'})"
    lines = [
        f"The score of a user and an item is the **inner product** (no cosine) of two vectors of {embedding['size']} "
        f"dimensions, in {bits}: {embedding['bytes_per_item']} bytes an item ({embedding['format']}).",
    ]
    if "item_codebooks" in embedding:
        lines += [
            "",
            "The vector of item r is a sum of codewords, one of each codebook: `codebooks[l, codes[r, l]]` over all l.",
            f"The codebooks are float16, and take {embedding['codebook_bytes']:,} bytes for all items together.",
        ]
    if embedding["format"] == "parquet":
        return lines
    return [
        *lines,
        "",
        "```python",
        "from recbole_derrd.serving import Recommender  # numpy alone",
        "",
        'model = Recommender.load("this folder")',
        'model.recommend("a user\'s id", k=10)',
        "```",
    ]


def _bits_or_codebooks(embedding: dict[str, Any]) -> str:
    if "item_codebooks" not in embedding:
        return f"{embedding['bits']} bits"
    count = embedding["item_codebooks"]
    users = "" if "user_bits" in embedding else " (the users' in float32)"
    return f"{count} codebook{'' if count == 1 else 's'}{users}"


def _without_embeddings(card: dict[str, Any]) -> list[str]:
    return [f"The score of {card['model']} is no inner product of two embeddings, so the rankings are all there is."]
