"""A report of records that hold anything: what is damaged is named and left out, what is not is never in the way."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from synthetic_records import groups_of, made, part, rich, synthetic, written

from recbole_derrd.cli import main
from recbole_derrd.report import grouping
from recbole_derrd.report.document import FORMATS, report_of
from recbole_derrd.report.plots import as_svg, figures_of
from recbole_derrd.report.reading import read_records, records_of
from recbole_derrd.runtime.json_files import MAX_BYTES


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


#: What may stand in the place of anything.
ODD: list[Any] = [
    None, True, -1, 0, 7, 1.5, 2**63, 10**39, 1e308, -1e308, 5e-324, float("nan"), float("inf"), "", "x", "\ud800",
    "$\\frac{$", "x" * 20_000, [], [1], [[1, 2]], [[2, 1], [1, 1]], [None], {}, {"a": None}, {"ndcg@10": "x"},
    nested(30), nested(60),
]  # fmt: skip


def positions(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every node of a record."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from positions(one, (*path, key))


def changed(record: dict[str, Any], path: tuple[Any, ...], change: Any) -> Any:
    """The record with another value at a place, or without it."""
    record = copy.deepcopy(record)
    if not path:
        return change
    holder: Any = record
    for key in path[:-1]:
        holder = holder[key]
    if change == "delete":
        del holder[path[-1]]
    else:
        holder[path[-1]] = change
    return record


PLACES = list(positions(rich()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("records"), synthetic()[:2])


def reported(folder: Path, monkeypatch: pytest.MonkeyPatch, record: Any) -> None:
    """The report of a good folder and this record is made in every form, or names it."""
    (folder / "odd.json").write_text(json.dumps(record))
    records, damaged = read_records(folder)
    other = record != nested(60) and (not isinstance(record, dict) or "schema" not in record)
    assert len(records) + len(damaged) == 2 + (not other) and all(damaged.values())
    with monkeypatch.context() as patched:
        for module in ("html", "plots"):
            patched.setattr(f"recbole_derrd.report.{module}.can_plot", lambda: False)
        for kind in FORMATS:
            text = report_of(folder, kind)
            text.encode("utf-8")
            assert ("is left out: it " in text) == bool(damaged)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(path=st.sampled_from(PLACES), change=st.sampled_from([*ODD, "delete"]))
@example(path=("teacher", "settings", "members"), change=None)
@example(path=("teacher", "settings", "members", 0, "members"), change="x")
@example(path=("candidates",), change="delete")
@pytest.mark.slow
def test_a_record_that_is_changed_anywhere_is_shown_or_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, path: tuple[Any, ...], change: Any
) -> None:
    reported(folder, monkeypatch, changed(rich(), path, change))


DRAWN = [path for path in PLACES if {"valid_scores", "diagnostics", "test", "bytes", "latency"} & set(path)]


@settings(max_examples=8, deadline=None)
@given(path=st.sampled_from(DRAWN), change=st.sampled_from(ODD))
@example(path=("diagnostics", "de", "expert_utilisation", "mean_utilisation"), change=[[]])
@example(path=("distilled", "valid_scores", 0, 1), change=float("inf"))
@pytest.mark.slow
def test_plots_of_what_is_accepted_are_drawn(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[Any, ...], change: Any
) -> None:
    pytest.importorskip("matplotlib")
    folder = written(tmp_path_factory.mktemp("records"), [changed(rich(), path, change)])
    for group in grouping.groups_of(read_records(folder)[0]):
        for _, figure in figures_of(group):
            assert as_svg(figure).startswith("<svg")


def test_files_that_are_no_records_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "records", synthetic())
    good = json.dumps(synthetic()[0])
    (folder / "a-deep.json").write_text("[" * 100_000)
    (folder / "b-twice.json").write_text(good.replace('"seed": 1,', '"seed": 1, "seed": 2,', 1))
    (folder / "c-digits.json").write_text(good.replace('"seed": 1,', f'"seed": {"9" * 5000},', 1))
    (folder / "d-latin.json").write_bytes(b'{"schema": "\xe9"}')
    (folder / "e-large.json").touch()
    os.truncate(folder / "e-large.json", MAX_BYTES + 1)
    (folder / "f-link.json").symlink_to("nowhere")
    (folder / "g-folder.json").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "h-pipe.json")
    records, damaged = records_of(folder)
    assert len(records) == 10
    words = [
        "nested too deeply", "the key 'seed' twice", "of 5,000 digits", "no UTF-8", "more than 16", "cannot be read",
        "no ordinary file", "no ordinary file",
    ]  # fmt: skip
    for source, word in zip(sorted(damaged), words):
        assert word in damaged[source], source
    assert len(damaged) == 7 + hasattr(os, "mkfifo")
    assert main(["report", str(folder)]) == 0
    text = capsys.readouterr().out
    assert all(
        f"{source.path.name}' is left out: it {fault}"[:60] in text.replace("\\", "")
        for source, fault in damaged.items()
    )
    assert (
        "distilled.params is 'x', not a number"
        in (read_records(written(tmp_path / "one", [changed(rich(), ("distilled", "params"), "x")]))[1].popitem()[1])
    )


# -- text

EVIL = (
    "a|b\n# c `` ``` ````\n</pre></style></script><img src=x onerror=alert(1)> ](javascript:alert(1)) ![i](//e.vil/i) "
    "[l](https://e.vil) <https://e.vil> $\\frac{$ \\input{x} }% \x1b[31m \u202eright \ud800 \ufffe www.e.vil me@e.vil "
    "_*~&#38;\r\n\\"
)


def evil(value: Any, key: str = "") -> Any:
    """A record whose every text is hostile, but for those that say which of a few things it is."""
    if isinstance(value, dict):
        kept = key in ("data", "fingerprint", "mode", "latency", "cost")
        return {(one if kept or one in KEYS else f"{one} {EVIL}"): evil(inner, one) for one, inner in value.items()}
    if isinstance(value, list):
        return [evil(one, key) for one in value]
    return f"{value} {EVIL}" if isinstance(value, str) and key not in ("valid_metric",) else value


KEYS = {path[0] for path in PLACES if len(path) == 1} | {
    key for path in PLACES for key in path
    if isinstance(key, str) and not {"settings", "options", "versions"} & set(path[:-1]) and "@" not in key
} | {"members"}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [evil(rich(seed)) for seed in (1, 2, 3)]
    for record in records:
        record["valid_metric"] = next(iter(record["distilled"]["test"]))
    folder = written(tmp_path_factory.mktemp("records") / "a`|[x](y)\n%", records)
    (folder / "torn ](x) <b>\n`.json").write_text("{")
    return folder


def hidden(text: str) -> list[str]:
    """Characters that no output may hold."""
    return [letter for letter in text if (ord(letter) < 32 and letter != "\n") or letter in "\x7f\u202e\ud800\ufffe"]


def test_markdown_prints_hostile_text_as_text(hostile: Path) -> None:
    assert len(read_records(hostile)[0]) == 3
    lines = iter(report_of(hostile, "md").splitlines())
    blocks, tables, prose = 0, [], []
    for line in lines:
        assert not hidden(line)
        if line.startswith("```"):
            fence, inside = line, []
            while (inner := next(lines)).strip() != fence:
                assert not (inner.startswith("```") and set(inner) == {"`"} and len(inner) >= len(fence))
                inside.append(inner)
            blocks += 1
            assert blocks > 1 or any("javascript" in one for one in inside), "a command is shown as it is"
        else:
            # What is left without what is escaped, and without the report's own marks.
            prose.append(plain := _unescaped(line))
            if plain.startswith("|"):
                tables.append(plain.count("|"))
    assert blocks == 3 and len(set(tables)) <= 3
    rest = "\n".join(prose).replace("<u>", "").replace("</u>", "")
    for sign in ("<", ">", "[", "]", "`", "$", "~", "_", "&", "://", "www.", "me@"):
        assert sign not in rest, sign
    # No text begins a list, a quotation or a line under a heading.
    assert not [line for line in prose if re.match(r"\s*(?:[-+*>]\s|\d+[.)]\s|={2,}|-{2,}|<)", line)]


def _unescaped(line: str) -> str:
    found, pending = [], iter(line)
    for letter in pending:
        found.append("" if letter == "\\" and next(pending) else letter)
    return "".join(found)


def test_latex_prints_hostile_text_as_text(hostile: Path) -> None:
    text = report_of(hostile, "tex")
    assert not hidden(text)
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    for line in lines:
        assert "\\input" not in line
        # Without escaped signs, every brace closes and nothing else of TeX's is left.
        rest = line.replace("\\\\", "")
        for escaped in "&%$#_{}":
            rest = rest.replace(f"\\{escaped}", "")
        rest = rest.replace("$\\pm$", "")
        assert not set("%$#_^~") & set(rest.replace(r"\resizebox{\textwidth}{!}{%", "")), line
        assert "\\frac" not in rest
    body = "\n".join(lines)
    for escaped in ("\\{", "\\}"):
        body = body.replace(escaped, "")
    assert body.count("{") == body.count("}")


@pytest.mark.slow
def test_html_and_plots_print_hostile_text_as_text(hostile: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from test_report import _Balanced

    text = report_of(hostile, "html")
    assert not hidden(text)
    page = _Balanced()
    page.feed(text)
    assert not page.open and all(link.startswith(("#", "data:")) for link in page.links)
    assert not {"img", "script", "b onerror"} & page.seen and "onerror" not in page.attributes
    assert "\\frac{$" in text.replace("\\\\", "\\"), "a name is no mathematics"
    plots = tmp_path / "plots"
    report_of(hostile, "tex", plots=plots)
    assert len(list(plots.iterdir())) > 4
    assert all(
        set(path.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")
        for path in plots.iterdir()
    )


def test_a_row_whose_name_begins_with_an_underscore_is_in_the_legend() -> None:
    pytest.importorskip("matplotlib")
    names = ["_hidden", "DE", "$x_1$ costs 5$", ""]
    records = [made("DE", 1, 0.4 + place / 100) for place in range(len(names))]
    for record, name in zip(records, names):
        record["benchmark"].update(experiment=name, settings=name)
    (group,) = groups_of(records)
    figure = dict(figures_of(group))["learning-curves"]
    as_svg(figure)
    (legend,) = figure.legends
    shown = [text.get_text().strip() for text in legend.get_texts()]
    assert len(shown) == len(group.rows) and "_hidden" in shown and r"\$x_1\$ costs 5\$" in shown
    assert shown[0].startswith("Teacher") and shown.index(r"\$x_1\$ costs 5\$") < shown.index("_hidden"), "best first"


def test_a_mean_over_seeds_has_no_gap_within_its_noise(tmp_path: Path) -> None:
    def with_students(*scores: float) -> str:
        records = [
            made("DE", seed, 0.4, student=part("BPR", score, 100, f"s{seed}", seed=seed))
            for seed, score in enumerate(scores, 1)
        ]
        shutil.rmtree(tmp_path / "records", ignore_errors=True)
        return report_of(written(tmp_path / "records", records), "md")

    noisy, clear = with_students(0.3, 0.69, 0.49), with_students(0.39, 0.4, 0.41)
    assert "no more than the standard error over seeds" in noisy and "no more than" not in clear
    (row,) = (line for line in noisy.splitlines() if line.startswith("| DE | BPR | 3 | <u>0.4000"))
    assert " | - | 100 |" in row and " | 0 % | 100 |" in clear
    assert " | 0 % |" in with_students(0.4001, 0.4001, 0.4002) and "-0 %" not in with_students(0.4001, 0.4001, 0.4002)
