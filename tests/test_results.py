"""Numbers in pages are those of committed records; ``pytest tests/test_results.py --regen`` writes them."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from recbole_derrd.benchmark.plan import read_plan
from recbole_derrd.evaluation.metrics import percent
from recbole_derrd.registry import METHODS
from recbole_derrd.report import RunRecord
from recbole_derrd.report.comparison import gap_of
from recbole_derrd.report.comparison_tables import spread
from recbole_derrd.report.document import report_of
from recbole_derrd.report.frontier import frontier_figure, frontier_table, frontiers_of
from recbole_derrd.report.grouping import groups_of
from recbole_derrd.report.plots import as_svg, can_plot, figures_of
from recbole_derrd.report.reading import records_of
from recbole_derrd.report.rows import Group
from recbole_derrd.report.table import table_as_md

ROOT = Path(__file__).resolve().parent.parent
PAGES_FOLDER = ROOT / "docs" / "results"
#: One file a benchmark (or another set of runs), one record a line.
RECORDS = ROOT / "results"
AGAIN = "run pytest tests/test_results.py --regen"


def records_in(*names: str) -> list[RunRecord]:
    """The committed records of these names."""
    records, unread = records_of(*(RECORDS / f"{name}.jsonl" for name in names))
    assert not unread
    return records


def group_in(*names: str) -> Group:
    """The committed records of these names, which are one table."""
    (group,) = groups_of(records_in(*names))
    return group


def results_table(name: str) -> str:
    """The table of one run over several seeds, and the gap that it recovers."""
    records = sorted(records_in(name), key=lambda record: record.seed)
    group, metric = group_in(name), records[0].valid_metric
    teacher, student, distilled = group.ordered()
    lines = [["", "model", *group.metrics, "parameters", "size"]]
    for row, title in ((teacher, "Teacher"), (student, "Student alone"), (distilled, "Distilled student")):
        scores = [spread(row.values(metric)) for metric in group.metrics]
        size = f"{(row.number('bytes') or 0) / 1000:,.0f} kB"
        lines.append([title, row.model, *scores, f"{row.number('params'):,.0f}", size])
    wins = sum(own > alone for own, alone in zip(*distilled.paired(student, metric)))
    seeds = ", ".join(str(record.seed) for record in records)
    gap = (
        f"Gap recovered ({metric}, of the means): {percent(gap_of(group, distilled, metric))}. Distilled beats plain "
        f"in {wins} of {len(records)} seeds ({seeds}; each seed has its own split and its own teacher)."
    )
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), gap])


@pytest.mark.parametrize(
    ("page", "records"),
    [
        ("README.md", "quickstart"),
        ("docs/start/table.md", "quickstart"),
        ("docs/results/quickstart.md", "quickstart"),
        ("docs/results/quickstart.md", "quickstart-de-rrd"),
        ("docs/results/quickstart.md", "quickstart-de"),
        ("docs/results/ml-100k.md", "ml-100k-lightgcn"),
        ("docs/results/ml-100k.md", "ml-100k-neumf"),
    ],
)
def test_numbers_in_pages_are_those_of_their_records(page: str, records: str) -> None:
    """A number in a page comes from a record that a stated command made."""

    def plain(text: str) -> str:
        # The pages' cells are padded.
        return re.sub(r"[ \-:]+", " ", text)

    text = plain((ROOT / page).read_text(encoding="utf-8"))
    for line in results_table(records).splitlines():
        assert plain(line) in text, line


#: What `recbole-derrd report results/NAME.jsonl --baseline=ROW --split=SPLIT` prints stands between comments.
REPORT = re.compile(
    r"(<!-- report (\S+?)(?:, of the (valid) split)?(?:, against (.+?))? -->\n)(.*?)(<!-- end of report -->)", re.DOTALL
)
PAGES = [page for page in sorted(PAGES_FOLDER.glob("*.md")) if "<!-- report " in page.read_text("utf-8")]


def reported(match: re.Match[str]) -> str:
    """The report of a file of records, its headings below the page's."""
    text = report_of(RECORDS / f"{match[2]}.jsonl", "md", baseline=match[4], split=match[3] or "test")
    return match[1] + "\n" + re.sub("^## ", "### ", text, flags=re.MULTILINE) + "\n" + match[6]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_reports_in_pages_are_those_of_their_records(page: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text(encoding="utf-8")
    expected = REPORT.sub(reported, text)
    if request.config.getoption("--regen"):
        page.write_text(expected, encoding="utf-8")
        return
    assert text == expected, AGAIN


#: NDCG@5 and Hit@5 of DE-RRD's table 2 (CIKM 2020), CiteULike, BPR.
PAPER = {
    "Teacher": (0.3970, 0.5135), "Student alone": (0.3319, 0.4441), "RD": (0.3395, 0.4533), "CD": (0.3404, 0.4550),
    "RRD": (0.3461, 0.4622), "DE": (0.3625, 0.4817), "DE-RRD": (0.3632, 0.4843), "IR-RRD": None,
}  # fmt: skip
BESIDE = re.compile(r"(<!-- beside the paper -->\n).*?(<!-- end of table -->)", re.DOTALL)


def beside_the_paper() -> str:
    """Our numbers beside the paper's, from the records."""
    group = group_in("citeulike-bpr")
    rows = {row.label: row for row in group.rows.values()}
    lines = ["| | seeds | NDCG@5 here | in the paper | Hit@5 here | in the paper |", "|---|--:|--:|--:|--:|--:|"]
    for name, published in PAPER.items():
        own = [spread(rows[name].values(metric)) for metric in ("ndcg@5", "hit@5")]
        theirs = ["-", "-"] if published is None else [f"{value:.4f}" for value in published]
        seeds = "" if name == "Teacher" else len(rows[name].distinct())
        lines.append(f"| {name} | {seeds} | {own[0]} | {theirs[0]} | {own[1]} | {theirs[1]} |")
    return "\n".join(lines)


@pytest.mark.parametrize("page", ["docs/results/citeulike-bpr.md"])
def test_the_table_beside_the_paper_is_that_of_its_records(page: str, request: pytest.FixtureRequest) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    expected, count = BESIDE.subn(lambda match: f"{match[1]}\n{beside_the_paper()}\n\n{match[2]}", text)
    assert count == 1
    if request.config.getoption("--regen"):
        (ROOT / page).write_text(expected, encoding="utf-8")
        return
    assert text == expected, AGAIN


#: The table of `recbole-derrd frontier` over several files of records, and its picture beside the page.
FRONTIER = re.compile(r"(<!-- frontier (.+?), drawn in (\S+) -->\n)(.*?)(<!-- end of frontier -->)", re.DOTALL)
FRONTIERS = [page for page in sorted(PAGES_FOLDER.glob("*.md")) if "<!-- frontier " in page.read_text("utf-8")]


@pytest.mark.parametrize("page", FRONTIERS, ids=lambda page: page.stem)
def test_frontiers_in_pages_are_those_of_their_records(page: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text(encoding="utf-8")
    pictures: list[tuple[Path, str]] = []

    def shown(match: re.Match[str]) -> str:
        (found,) = frontiers_of(records_in(*match[2].split()))
        if can_plot():
            pictures.append((page.parent / match[3], as_svg(frontier_figure(found)) + "\n"))
        table = re.sub("^## ", "### ", table_as_md(frontier_table(found)))
        return f"{match[1]}\n![{found.metric} against bytes an item]({match[3]})\n\n{table}\n\n{match[5]}"

    expected, count = FRONTIER.subn(shown, text)
    assert count == 1
    if request.config.getoption("--regen"):
        page.write_text(expected, encoding="utf-8")
        for path, drawn in pictures:
            path.write_text(drawn, encoding="utf-8")
        return
    assert text == expected, AGAIN
    for path, drawn in pictures:
        # Another matplotlib draws another file with the same names.
        kept, wanted = (re.findall(r"<text[^>]*>([^<]+)</text>", one) for one in (path.read_text("utf-8"), drawn))
        assert kept == wanted and len(kept) > 5, AGAIN


PICTURE = PAGES_FOLDER / "citeulike-bytes-per-item.svg"


def test_the_picture_of_citeulike_is_that_of_its_records(request: pytest.FixtureRequest) -> None:
    """`recbole-derrd report results/citeulike-bpr.jsonl results/citeulike-best.jsonl --plots=FOLDER` draws it."""
    pytest.importorskip("matplotlib")
    group = group_in("citeulike-bpr", "citeulike-best")
    drawn = as_svg(dict(figures_of(group))["ndcg10-against-bytes_per_item"]) + "\n"
    if request.config.getoption("--regen"):
        PICTURE.write_text(drawn, encoding="utf-8")
    # Another matplotlib draws another file with the same names in the same order, best first.
    shown, expected = (re.findall(r"<text[^>]*>([^<]+)</text>", text) for text in (PICTURE.read_text("utf-8"), drawn))
    assert shown == expected and len(shown) > len(group.rows), AGAIN


#: What has been run, and what has not, stands between comments.
STATE = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- end of table -->)", re.DOTALL)


def state_of_benchmarks() -> str:
    """How many experiments of each benchmark the committed records hold: what its command would not run anew."""
    lines = ["| benchmark | page | experiments of its first seed | of all seeds |", "|---|---|--:|--:|"]
    for file in sorted((ROOT / "configs" / "benchmark").glob("*.yaml")):
        plan, file_of_records = read_plan(file), RECORDS / f"{file.stem}.jsonl"
        records = records_in(file.stem) if file_of_records.exists() else []
        keys = {record.benchmark.key for record in records if record.benchmark}
        assert keys <= {experiment.key for experiment in plan.experiments}, (
            f"{file.name} has other settings than its records"
        )
        pages = [page for page in PAGES if file.stem in {part[2] for part in REPORT.finditer(page.read_text("utf-8"))}]
        shown = ", ".join(f"[{page.stem}]({page.name})" for page in pages) or "not published"
        first = [
            experiment.key in keys for experiment in plan.experiments if experiment.seed == plan.experiments[0].seed
        ]
        whole = [experiment.key in keys for experiment in plan.experiments]
        parts = [f"{sum(some)} of {len(some)}" for some in (first, whole)]
        lines.append(f"| [{file.stem}](../../configs/benchmark/{file.name}) | {shown} | {' | '.join(parts)} |")
    return "\n".join(lines)


def test_the_list_of_results_says_what_was_run(request: pytest.FixtureRequest) -> None:
    page = PAGES_FOLDER / "README.md"
    text = page.read_text(encoding="utf-8")
    expected, count = STATE.subn(lambda match: f"{match[1]}\n{state_of_benchmarks()}\n\n{match[2]}", text)
    assert count == 1
    if request.config.getoption("--regen"):
        page.write_text(expected, encoding="utf-8")
        return
    assert text == expected, AGAIN


def test_every_file_of_a_benchmarks_records_has_its_report_in_a_page() -> None:
    shown = {match[2] for page in PAGES for match in REPORT.finditer(page.read_text(encoding="utf-8"))}
    names = [file.stem for file in RECORDS.glob("*.jsonl") if file.stem != "scale"]
    benchmarks = {name for name in names if any(record.benchmark for record in records_in(name))}
    assert benchmarks == shown and len(shown) > 1


def test_the_rows_of_wide_students_are_those_of_their_records() -> None:
    page = (PAGES_FOLDER / "citeulike-bpr.md").read_text(encoding="utf-8")
    records = records_in("citeulike-wide")
    assert len(records) == 3
    for record in records:
        shown = [f"{record.distilled.test[metric]:.4f}" for metric in ("ndcg@5", "ndcg@10", "hit@5")]
        assert f"| {record.distilled.bytes_per_item:.0f} | {' | '.join(shown)} |" in page


def test_the_rows_of_plain_neumfs_are_those_of_their_records() -> None:
    page = (PAGES_FOLDER / "citeulike-bpr-neumf.md").read_text(encoding="utf-8")
    found = [record.distilled for record in records_in("citeulike-neumf-tuning")]
    student = records_in("citeulike-bpr-neumf")[0].student
    found += [student] if student else []
    assert len(found) == 4
    for entry in found:
        settings = entry.settings
        decay = {0.0: "0", 1e-7: "1e-7"}.get(settings["weight_decay"], "9.8e-7")
        scores = [entry.valid["ndcg@10"], entry.test["ndcg@10"], entry.test["ndcg@5"]]
        assert (
            f"| {settings['mf_embedding_size']} | {decay} | {' | '.join(f'{score:.4f}' for score in scores)} |" in page
        )


def test_the_rows_of_sizes_are_those_of_their_records() -> None:
    page = (PAGES_FOLDER / "citeulike-sizes.md").read_text(encoding="utf-8")
    group = group_in("citeulike-sizes")
    rows = {row.label: row for row in group.rows.values()}
    teacher = rows["Teacher"]
    for size, ours, published in ((20, "DE-RRD", 0.94), (100, "DE-RRD, embedding_size=100", 1.01),
                                  (200, "DE-RRD, embedding_size=200", 1.03)):  # fmt: skip
        plain, distilled = rows[f"Student alone (embedding_size={size})"], rows[ours]
        ratio = (distilled.mean("hit@5") or 0) / (teacher.mean("hit@5") or 1)
        scores = [f"{row.mean('ndcg@5'):.4f}" for row in (plain, distilled, teacher)]
        assert f" | {ratio:.2f} | {published:.2f} | {' | '.join(scores)} |" in page


def test_the_rows_of_real_data_are_those_of_their_records() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    records = records_in("scale-real")
    assert len(records) == 4
    for record in records:
        teacher, student, distilled, cost = record.teacher, record.student, record.distilled, record.cost
        assert teacher and student and cost
        cells = [
            f"{record.dataset}, {record.model}",
            f"{teacher.seconds:,.0f} ({teacher.epochs})",
            f"{cost.knowledge_seconds:.0f}",
            f"{student.seconds:,.0f} ({student.epochs})",
            f"{distilled.seconds:,.0f} ({distilled.epochs})",
            f"{statistics.median(cost.epoch_seconds):.1f}",
            f"{(cost.peak_rss_bytes or 0) / 2**30:.1f}",
            *(f"{one.test['recall@20']:.4f} / {one.test['ndcg@20']:.4f}" for one in (teacher, student, distilled)),
        ]
        assert "| " + " | ".join(cells) + " |" in page


def test_the_rows_of_hetcomps_cost_are_those_of_its_record() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    lines = (RECORDS / "scale.jsonl").read_text(encoding="ascii").splitlines()
    record = next(one for one in map(json.loads, lines) if one["file"] == "hetcomp")
    assert len(record["rows"]) == 4 and record["command"] in page
    for row in record["rows"]:
        seconds, peaks = row["seconds"], row["peak_bytes"]
        cells = [
            f"{row['users']:,} x {row['items']:,}",
            f"{row['bytes_on_disk'] / 1e6:.0f}",
            f"{seconds['lists']:.0f}",
            *(f"{seconds[stage]:.1f}" for stage in ("order", "schedule", "merge")),
            *(f"{1e3 * seconds[stage]:.0f}" for stage in ("phase 1", "phase 2", "drawn")),
            *(f"{peaks[stage] / 2**20:.0f}" for stage in ("lists", "schedule", "phase 2", "drawn")),
            f"{row['bytes_of_a_matrix'] / 2**20:,.0f}",
        ]
        assert "| " + " | ".join(cells) + " |" in page


#: Where the costs of an epoch at default settings stand: docs/performance.md, and the table of methods.
COSTS = ROOT / "results" / "performance" / "defaults.txt"
_COSTS_START = "<!-- costs: written by pytest tests/test_results.py --regen -->\n"
_COSTS_END = "<!-- end of costs -->\n"


#: Lines of an epoch, and of what of it passes before its first batch: model, epoch, what it is of, seconds.
_EPOCHS = re.compile(r"^(\w+) epoch ([1-9]\d*) (.*): ([\d.]+) s$", re.MULTILINE)
_BEFORE_BATCHES = re.compile(r"^(\w+) before epoch ([1-9]\d*)'s batches (.*): ([\d.]+) s of it$", re.MULTILINE)


def costs(lines: re.Pattern[str] = _EPOCHS) -> dict[str, dict[str, str]]:
    """Each epoch's ratio to the stock student's, by what it is of and by the student's model; the first is not counted.

    Medians over the epochs, as the table at the end of the record has them.
    """
    record = COSTS.read_text("utf-8")
    stock = {one[:2]: float(one[3]) for one in _EPOCHS.findall(record) if one[2] == "student, stock RecBole"}
    ratios: dict[str, dict[str, list[float]]] = {}
    for model, epoch, what, seconds in lines.findall(record):
        ratio = float(seconds) / stock[model, epoch]
        ratios.setdefault(what.replace("student + ", ""), {}).setdefault(model, []).append(ratio)
    return {
        what: {model: f"{statistics.median(values):.1f}" for model, values in found.items()}
        for what, found in ratios.items()
    }


def costs_table() -> str:
    before = costs(_BEFORE_BATCHES)
    rows = [
        f"| {what} | {ratios['BPR']} | {before[what]['BPR'] if what in before else ''} | {ratios['LightGCN']} |"
        for what, ratios in costs().items()
    ]
    return "\n".join(["| epoch of | BPR | before its first batch | LightGCN |", "|---|--:|--:|--:|", *rows, ""])


def with_costs(page: str) -> str:
    before, rest = page.split(_COSTS_START)
    return f"{before}{_COSTS_START}\n{costs_table()}\n{_COSTS_END}{rest.split(_COSTS_END)[1]}"


def methods_with_costs(page: str) -> str:
    """The table of methods, whose last cell is the ratio with a BPR student and with a LightGCN student."""
    for what, ratios in costs().items():
        name = re.escape(what.lower().replace("-", "_"))
        cell = f" {ratios['BPR']}; {ratios['LightGCN']} |"
        page = re.sub(rf"(?m)^(\| \[`{name}`\].*\|)[^|]*\|$", lambda row, cell=cell: row[1] + cell, page)  # type: ignore[misc]
    return page


@pytest.mark.parametrize(
    ("page", "written"), [("performance.md", with_costs), ("methods/README.md", methods_with_costs)]
)
def test_the_costs_are_those_of_the_record(page: str, written: Any, request: pytest.FixtureRequest) -> None:
    file = ROOT / "docs" / page
    if request.config.getoption("--regen"):
        file.write_text(written(file.read_text("utf-8")), encoding="utf-8")
    assert file.read_text("utf-8") == written(file.read_text("utf-8")), AGAIN


def test_the_record_of_costs_has_every_method() -> None:
    """With both models."""
    assert all(set(ratios) == {"BPR", "LightGCN"} for ratios in costs().values())
    assert {what.lower().replace("-", "_") for what in costs()} >= {*METHODS}
    assert costs()["student, stock RecBole"] == {"BPR": "1.0", "LightGCN": "1.0"}
