"""Numbers in pages are those of committed records; ``pytest tests/test_results.py --regen`` writes them."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from recbole_derrd.benchmark.plan import read_plan
from recbole_derrd.report import seeds_table
from recbole_derrd.report.comparison_tables import spread
from recbole_derrd.report.document import report_of
from recbole_derrd.report.plots import as_svg, figures_of
from recbole_derrd.report.reading import records_of
from recbole_derrd.report.rows import groups_of

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
AGAIN = "run pytest tests/test_results.py --regen"


def results_table(name: str) -> str:
    """The table of the records that lie in docs/results/<name>/."""
    files = sorted((RESULTS / name).glob("*.json"))
    return seeds_table([json.loads(file.read_text(encoding="utf-8")) for file in files])


@pytest.mark.parametrize(
    ("page", "records"),
    [
        ("README.md", "quickstart"),
        ("docs/results/quickstart.md", "quickstart"),
        ("docs/results/quickstart.md", "quickstart-rrd"),
        ("docs/results/quickstart.md", "quickstart-de"),
        ("docs/results/ml-100k.md", "ml-100k-lightgcn"),
        ("docs/results/ml-100k.md", "ml-100k-neumf"),
    ],
)
def test_numbers_in_pages_are_those_of_their_records(page: str, records: str) -> None:
    """A number in a page comes from a record that a stated command made."""

    def plain(text: str) -> str:
        # Snapshots of tabulate pad cells differently.
        return re.sub(r"[ \-:]+", " ", text)

    text = plain((ROOT / page).read_text(encoding="utf-8"))
    for line in results_table(records).splitlines():
        assert plain(line) in text, line


#: What `recbole-derrd report docs/results/FOLDER --baseline=ROW --split=SPLIT` prints stands between comments.
REPORT = re.compile(
    r"(<!-- report (\S+?)(?:, of the (valid) split)?(?:, against (.+?))? -->\n)(.*?)(<!-- end of report -->)", re.DOTALL
)
PAGES = [page for page in sorted(RESULTS.glob("*.md")) if "<!-- report " in page.read_text("utf-8")]


def reported(match: re.Match[str]) -> str:
    """The report of a folder of records, its headings below the page's."""
    text = report_of(RESULTS / match[2], "md", baseline=match[4], split=match[3] or "test")
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
    files = sorted((RESULTS / "citeulike-bpr").glob("*.json"))
    (group,) = groups_of(json.loads(file.read_text(encoding="utf-8")) for file in files)
    rows = {row.label: row for row in group.rows.values()}
    lines = ["| | seeds | NDCG@5 here | in the paper | Hit@5 here | in the paper |", "|---|--:|--:|--:|--:|--:|"]
    for name, published in PAPER.items():
        own = [spread(rows[name].values(metric)) for metric in ("ndcg@5", "hit@5")]
        theirs = ["-", "-"] if published is None else [f"{value:.4f}" for value in published]
        seeds = "" if name == "Teacher" else len(rows[name].distinct())
        lines.append(f"| {name} | {seeds} | {own[0]} | {theirs[0]} | {own[1]} | {theirs[1]} |")
    return "\n".join(lines)


@pytest.mark.parametrize("page", ["README.md", "docs/results/citeulike-bpr.md"])
def test_the_table_beside_the_paper_is_that_of_its_records(page: str, request: pytest.FixtureRequest) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    expected, count = BESIDE.subn(lambda match: f"{match[1]}\n{beside_the_paper()}\n\n{match[2]}", text)
    assert count == 1
    if request.config.getoption("--regen"):
        (ROOT / page).write_text(expected, encoding="utf-8")
        return
    assert text == expected, AGAIN


PICTURE = RESULTS / "citeulike-bytes-per-item.svg"


def test_the_picture_of_citeulike_is_that_of_its_records(request: pytest.FixtureRequest) -> None:
    """`recbole-derrd report docs/results/citeulike-bpr docs/results/citeulike-best --plots=FOLDER` draws it."""
    pytest.importorskip("matplotlib")
    records, _ = records_of(*(RESULTS / name for name in ("citeulike-bpr", "citeulike-best")))
    (group,) = groups_of(records)
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
        plan, folder = read_plan(file), RESULTS / file.stem
        records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        keys = {(record.get("benchmark") or {}).get("key") for record in records}
        assert keys <= {experiment.key for experiment in plan.experiments}, f"{file.name} has other settings than its records"
        pages = [page for page in PAGES if file.stem in {part[2] for part in REPORT.finditer(page.read_text("utf-8"))}]
        shown = ", ".join(f"[{page.stem}]({page.name})" for page in pages) or "not published"
        first = [experiment.key in keys for experiment in plan.experiments if experiment.seed == plan.experiments[0].seed]
        whole = [experiment.key in keys for experiment in plan.experiments]
        parts = [f"{sum(some)} of {len(some)}" for some in (first, whole)]
        lines.append(f"| [{file.stem}](../../configs/benchmark/{file.name}) | {shown} | {' | '.join(parts)} |")
    return "\n".join(lines)


def test_the_list_of_results_says_what_was_run(request: pytest.FixtureRequest) -> None:
    page = RESULTS / "README.md"
    text = page.read_text(encoding="utf-8")
    expected, count = STATE.subn(lambda match: f"{match[1]}\n{state_of_benchmarks()}\n\n{match[2]}", text)
    assert count == 1
    if request.config.getoption("--regen"):
        page.write_text(expected, encoding="utf-8")
        return
    assert text == expected, AGAIN


def test_every_folder_of_a_benchmarks_records_has_its_report_in_a_page() -> None:
    shown = {match[2] for page in PAGES for match in REPORT.finditer(page.read_text(encoding="utf-8"))}
    files = RESULTS.glob("*/*.json")
    benchmarks = {file.parent.name for file in files if json.loads(file.read_text(encoding="utf-8")).get("benchmark")}
    assert benchmarks == shown and len(shown) > 1


def test_the_rows_of_wide_students_are_those_of_their_records() -> None:
    page = (RESULTS / "citeulike-bpr.md").read_text(encoding="utf-8")
    files = sorted((RESULTS / "citeulike-wide").glob("*.json"))
    assert len(files) == 3
    for file in files:
        entry = json.loads(file.read_text(encoding="utf-8"))["distilled"]
        shown = [f"{entry['test'][metric]:.4f}" for metric in ("ndcg@5", "ndcg@10", "hit@5")]
        assert f"| {entry['bytes_per_item']:.0f} | {' | '.join(shown)} |" in page


def test_the_rows_of_plain_neumfs_are_those_of_their_records() -> None:
    page = (RESULTS / "citeulike-bpr-neumf.md").read_text(encoding="utf-8")
    records, _ = records_of(RESULTS / "citeulike-neumf-tuning")
    found = [record["distilled"] for record in records]
    trained, _ = records_of(RESULTS / "citeulike-bpr-neumf")
    found.append(trained[0]["student"])
    assert len(found) == 4
    for entry in found:
        settings = entry["settings"]
        decay = {0.0: "0", 1e-7: "1e-7"}.get(settings["weight_decay"], "9.8e-7")
        scores = [entry["valid"]["ndcg@10"], entry["test"]["ndcg@10"], entry["test"]["ndcg@5"]]
        assert (
            f"| {settings['mf_embedding_size']} | {decay} | {' | '.join(f'{score:.4f}' for score in scores)} |" in page
        )


def test_the_rows_of_sizes_are_those_of_their_records() -> None:
    page = (RESULTS / "citeulike-sizes.md").read_text(encoding="utf-8")
    records, _ = records_of(RESULTS / "citeulike-sizes")
    (group,) = groups_of(records)
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
    files = sorted((RESULTS / "scale-real").glob("*.json"))
    assert len(files) == 4
    for file in files:
        record = json.loads(file.read_text(encoding="utf-8"))
        models, seconds = [record[role] for role in ("teacher", "student", "distilled")], record["seconds"]
        cells = [
            f"{record['dataset']}, {record['model']}",
            f"{seconds['teacher']:,.0f} ({models[0]['epochs']})",
            f"{seconds['knowledge']:.0f}",
            f"{seconds['student']:,.0f} ({models[1]['epochs']})",
            f"{seconds['distilled']:,.0f} ({models[2]['epochs']})",
            f"{statistics.median(seconds['epochs']):.1f}",
            f"{record['peak_rss_bytes'] / 2**30:.1f}",
            *(f"{model['test']['recall@20']:.4f} / {model['test']['ndcg@20']:.4f}" for model in models),
        ]
        assert "| " + " | ".join(cells) + " |" in page


def test_the_rows_of_hetcomps_cost_are_those_of_its_record() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    record = json.loads((RESULTS / "scale" / "hetcomp.json").read_text(encoding="utf-8"))
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
