"""The tables of docs/which-method.md are those of the records; ``pytest tests/test_which_method.py --regen``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from recbole_derrd.evaluation.metrics import percent
from recbole_derrd.report.comparison import gap_of
from recbole_derrd.report.frontier import codebook_bytes
from recbole_derrd.report.grouping import groups_of
from recbole_derrd.report.reading import records_of
from recbole_derrd.report.rows import Group, Row

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "which-method.md"


class Case(NamedTuple):
    """A recommendation, and the row of the records that stands behind it."""

    words: str
    records: str
    row: str
    settings: str


CASES = [
    Case("Small data (ml-100k), BPR 64 to 6", "quickstart", "RRD", "`distillers: [rrd]`"),
    Case("Small data, BPR teaches a NeuMF", "ml-100k-neumf", "DE-RRD", "`[de, rrd]`"),
    Case("Small data, three unlike teachers, BPR of 6", "hetcomp-quick", "HetComp", "`[hetcomp]`"),
    Case("CiteULike, BPR 200 to 20, little time", "citeulike-bpr", "IR-RRD", "`[ir_rrd]`"),
    Case("the same, best quality", "citeulike-best", "recipe, 20 dimensions",
         "`[ir_rrd, listwise]`, `warm_start: svd`, `listwise_sample: 0.1`"),
    Case("the same, fewest bytes", "citeulike-best", "recipe, 20 dimensions in 8 bits", "the same, `store_bits: 8`"),
    Case("the same, better than the teacher", "citeulike-best", "recipe, 80 dimensions in 4 bits",
         "the same, `embedding_size: 80`, `store_bits: 4`"),
    Case("CiteULike, LightGCN 200 to 20", "citeulike-lightgcn", "IR-RRD", "`[ir_rrd]`"),
    Case("CiteULike, BPR 200 teaches a NeuMF of 25", "citeulike-bpr-neumf", "DE-RRD", "`[de, rrd]`"),
    Case("CiteULike, six unlike teachers, BPR of 20", "citeulike-hetcomp", "HetComp", "`[hetcomp]`"),
    Case("Gowalla, BPR 128 to 16", "gowalla-bpr", "list-wise", "`[listwise]`"),
    Case("Gowalla, LightGCN 128 to 16", "gowalla-lightgcn", "list-wise", "`[listwise]`"),
    Case("Gowalla, three unlike teachers, BPR of 16", "gowalla-hetcomp", "HetComp", "`[hetcomp]`"),
]  # fmt: skip

#: What is compared by bytes: its name, its records, and the budgets.
SIZES = [
    (
        "CiteULike, BPR",
        ("citeulike-bpr", "citeulike-best", "citeulike-rivals", "frontier-citeulike"),
        (7, 12, 22, 42, 85, 110),
    ),
    ("CiteULike, LightGCN", ("citeulike-lightgcn",), (25, 85, 110)),
    ("Gowalla, BPR", ("gowalla-bpr", "frontier-gowalla"), (12, 18, 34, 66)),
    ("Gowalla, LightGCN", ("gowalla-lightgcn",), (18, 64, 66)),
]
TIMES = [
    ("ml-100k, BPR", "mkd-quick"),
    ("CiteULike, BPR", "citeulike-bpr"),
    ("CiteULike, LightGCN", "citeulike-lightgcn"),
    ("Gowalla, BPR", "gowalla-bpr"),
]


def group_in(*names: str) -> Group:
    records, unread = records_of(*(ROOT / "results" / f"{name}.jsonl" for name in names))
    assert not unread
    (group,) = groups_of(records)
    return group


def alone_of(group: Group) -> Row:
    return next(row for row in group.ordered() if row.label == "Student alone")


def times(group: Group, row: Row) -> str:
    """How long a row's training took, in trainings of the student alone."""
    seconds, alone = row.number("train_seconds"), alone_of(group).number("train_seconds")
    return "-" if not seconds or not alone else f"{seconds / alone:.1f}"


def cases() -> str:
    lines = [
        "| case | take | gap recovered | bytes an item, teacher to student | training, in times of the student alone "
        "| seeds |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for case in CASES:
        group = group_in(case.records)
        (row,) = (row for row in group.ordered() if row.label == case.row)
        teacher = [one for one in group.ordered() if one.role == "teacher"][-1]
        cost = f"{teacher.number('bytes_per_item') or 0:,.0f} to {row.number('bytes_per_item') or 0:,.0f}"
        gap = percent(gap_of(group, row, group.headline))
        taken = "-" if "in 8 bits" in row.label or "in 4 bits" in row.label else times(group, row)
        lines.append(
            f"| [{case.words}](results/{page_of(case.records)}.md) | {case.settings} | {gap} | {cost} | {taken} "
            f"| {len(row.distinct())} |"
        )
    return "\n".join(lines)


def page_of(records: str) -> str:
    """The page of results that holds these records."""
    return {"ml-100k-neumf": "ml-100k"}.get(records, records)


def most_seeds(group: Group) -> int:
    return max(len(row.distinct()) for row in group.ordered() if row.role != "teacher")


def whole_bytes(group: Group, row: Row) -> float:
    """Return a row's bytes an item, its codebooks shared out over the items; 0 where they are not known."""
    data, own = group.records[0].data, row.number("bytes_per_item") or 0
    shared = codebook_bytes(row, data.users, data.items) if own else None
    return 0 if shared is None else own + shared


def best_within(group: Group, budget: float, distilled: bool, whole: float) -> str:
    rows = [
        row
        for row in group.ordered()
        if row.role != "teacher" and row.distilled == distilled
        and 0 < whole_bytes(group, row) <= budget and row.values(group.headline)
    ]  # fmt: skip
    if not rows:
        return "- | - | -"
    best = max(rows, key=lambda row: row.mean(group.headline) or 0)
    mean = best.mean(group.headline) or 0.0
    return f"{best.label} | {mean:.4f} | {percent(mean / whole)}"


def sizes() -> str:
    parts = []
    for title, names, budgets in SIZES:
        group = group_in(*names)
        metric = group.headline.replace("ndcg", "NDCG")
        teacher = next(row for row in group.ordered() if row.role == "teacher")
        lines = [
            f"**{title}**. {metric} of the teacher: {teacher.mean(group.headline):.4f}, in "
            f"{teacher.number('bytes_per_item'):,.0f} bytes an item; seeds: {most_seeds(group)} at most.",
            "",
            f"| bytes an item, at most | without distillation | {metric} | of the teacher | distilled | {metric} "
            "| of the teacher |",
            "|--:|---|--:|--:|---|--:|--:|",
        ]
        for budget in budgets:
            whole = teacher.mean(group.headline) or 1.0
            plain, distilled = (best_within(group, budget, which, whole) for which in (False, True))
            lines.append(f"| {budget} | {plain} | {distilled} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def minutes() -> str:
    parts = []
    for title, name in TIMES:
        group = group_in(name)
        alone = alone_of(group)
        rows = [
            row
            for row in group.ordered()
            if row.distilled
            and row.role == "method" and row.number("bytes_per_item") == alone.number("bytes_per_item")
        ]  # fmt: skip
        lines = [
            f"**{title}**",
            "",
            "| method | gap recovered | training (s) | in times of the student alone |",
            "|---|--:|--:|--:|",
            f"| Student alone | 0 % | {alone.number('train_seconds'):,.0f} | 1 |",
        ]
        for row in sorted(rows, key=lambda row: row.number("train_seconds") or 0):
            gap = percent(gap_of(group, row, group.headline))
            lines.append(f"| {row.label} | {gap} | {row.number('train_seconds'):,.0f} | {times(group, row)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


@pytest.mark.parametrize(("mark", "table"), [("cases", cases), ("bytes", sizes), ("minutes", minutes)])
def test_the_tables_are_those_of_the_records(
    mark: str, table: Callable[[], str], request: pytest.FixtureRequest
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end of table -->)", re.DOTALL)
    expected, count = pattern.subn(lambda match: f"{match[1]}\n{table()}\n\n{match[2]}", text)
    assert count == 1
    if request.config.getoption("--regen"):
        PAGE.write_text(expected, encoding="utf-8")
        return
    assert text == expected, "run pytest tests/test_which_method.py --regen"
