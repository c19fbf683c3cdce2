"""The page on the speed of serving is that of its record; ``pytest tests/test_serving_speed.py --regen`` writes it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.serving import WAYS, BothSigns, ones, shared

from recbole_derrd.serving.signs import Signs
from recbole_derrd.serving.vectors import Vectors

ROOT = Path(__file__).resolve().parent.parent
PAGE, RECORD = ROOT / "docs" / "serving-speed.md", ROOT / "results" / "performance" / "serving.json"
TABLES = re.compile(r"(<!-- serving speed -->\n).*?(<!-- end of tables -->)", re.DOTALL)
FLAT, EXACT, OBVIOUS, TWO = "faiss IndexFlatIP", "exact, float32", "numpy: product, argpartition, sort", "two stages, "


def shown(value: float) -> str:
    """Write a number with two or three significant digits."""
    return f"{value:,.{max(0, 2 - len(str(int(value))) + (value < 1))}f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---", *["--:"] * (len(head) - 1)], *rows)]


def of_a_size(found: dict[str, Any]) -> list[str]:
    """What was measured in one catalogue, and in a sentence which way is the quickest."""
    rows = []
    for name in WAYS:
        one = found["rows"][name]
        numbers = [shown(one[key]) for key in ("p50_ms", "p99_ms", "block_ms")]
        numbers += [f"{one[key] / 1e6:,.1f}" for key in ("vectors_bytes", "peak_bytes")]
        rows.append([name.replace("1 bits", "1 bit"), *numbers, f"{one['same']:.3f}"])
    head = ["", "one user, p50 (ms)", "p99 (ms)", f"a user of {found['block']} (ms)", "items' vectors (MB)",
            "peak of the process (MB)", "of float32's top 10"]  # fmt: skip
    return [f"### {found['items']:,} items", "", *said(found), "", *table(head, rows), ""]


def said(found: dict[str, Any]) -> list[str]:
    """Compare our searches with faiss's flat index and with numpy."""
    lines = []
    for key, what in (("p50_ms", "One user (p50)"), ("block_ms", "A user of a block")):
        took = {name: row[key] for name, row in found["rows"].items()}
        exact, two = took[EXACT], took[TWO + "float32"]
        words = [f"the exact search takes {times(exact, took[FLAT])} faiss's flat index"]
        words.append(f"two stages take {times(two, took[FLAT])} it and {times(two, exact)} the exact search")
        lines.append(f"- {what}, float32: {', '.join(words)}. In 4 bits two stages take "
                     f"{times(took[TWO + '4 bits'], took['exact, 4 bits'])} the exact search.")  # fmt: skip
    return lines


def in_bits(bits: str) -> str:
    return "float32" if bits == "32" else f"{bits} bit{'s' if bits != '1' else ''}"


def times(one: float, other: float) -> str:
    ratio = one / other
    return f"{ratio:.2f} times as long as" if ratio < 10 else f"{ratio:.0f} times as long as"


def of_recall(record: dict[str, Any]) -> list[str]:
    """How much of the exact search's top 10 two stages find."""
    kinds = list(record["catalogues"][0]["recall"]["32"])
    heads = [f"{kind} candidates an item" if kind.isdigit() else "10, the query in one bit too" for kind in kinds]
    rows = []
    for found in [*record["catalogues"], *record["real"]]:
        name = found.get("data", "made up")
        for bits, recall in found["recall"].items():
            title = f"{name}, {found['items']:,} items, {in_bits(bits)}"
            rows.append([title, *(f"{recall[kind]:.3f}" for kind in kinds)])
    return table(["recall@10 of the exact search in the same bits", *heads], rows)


def of_the_first_stage(record: dict[str, Any]) -> list[str]:
    rows = [[f"{one['items']:,}", *(shown(one["first_stage"][key]) for key in ("query_float32_ms", "query_one_bit_ms"))]
            for one in record["catalogues"]]  # fmt: skip
    return table(["items", "query in float32 (ms)", "query in one bit (ms)"], rows)


def tables() -> str:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    with_ = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    requests = ", ".join(f"{one['requests']} of {one['items']:,} items" for one in record["catalogues"])
    lines = ["", f"{record['size']} dimensions, the top {record['k']}, {record['seen']} seen items left out; {with_}. "
             f"Single requests: {requests}.", ""]  # fmt: skip
    for found in record["catalogues"]:
        lines += of_a_size(found)
    lines += ["### Recall of two stages", "", *of_recall(record), "", "### The first stage alone", ""]
    return "\n".join([*lines, *of_the_first_stage(record), "", ""])


def test_the_page_is_that_of_its_record(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text(encoding="utf-8")
    expected, count = TABLES.subn(lambda match: match[1] + tables() + match[2], text)
    assert count == 1
    if request.config.getoption("--regen"):
        PAGE.write_text(expected, encoding="utf-8")
        return
    assert text == expected, "run pytest tests/test_serving_speed.py --regen"


def test_what_the_benchmark_compares_with_is_right() -> None:
    """Bits are counted as Python does, and the Hamming distance is the estimate of two sides of signs."""
    words = np.random.default_rng(0).integers(0, 1 << 63, 50, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    assert ones(words).tolist() == [bin(int(word)).count("1") for word in words]
    draw = np.random.default_rng(1)
    items, query = draw.normal(size=(90, 20)).astype(np.float32), draw.normal(size=20).astype(np.float32)
    both = BothSigns(Vectors({"embeddings": items}, 20, 32, 1.0, 90))
    turned = both._turned(query)
    wanted = Signs.products(both, np.sign(turned) * np.abs(turned).mean() @ both._rotation.T)
    assert np.allclose(both.products(query) - query @ both._centre, wanted - wanted_shift(both, turned), atol=1e-3)
    assert shared([[1, 2], [3, 4]], [[2, 9], [4, 3]]) == 0.75


def wanted_shift(both: BothSigns, turned: np.ndarray[Any, Any]) -> float:
    """What the centre adds for a query of signs."""
    return float((np.sign(turned) * np.abs(turned).mean() @ both._rotation.T) @ both._centre)
