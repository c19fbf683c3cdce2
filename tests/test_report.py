"""Reports of small synthetic records: three formats, plots, records that are not whole, mistakes."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from synthetic_records import synthetic, written

from recbole_derrd.cli import main
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.report.document import report_of
from recbole_derrd.report.escaping import as_tex
from recbole_derrd.report.reading import records_of


def test_markdown_marks_best_and_second_and_states_what_is_tested(tmp_path: Path) -> None:
    text = report_of(written(tmp_path / "records", synthetic()), "md")
    assert "**0.4011 ± 0.0010**" in text and "<u>0.3111 ± 0.0010</u>" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| RRD") and "+0.0981" in line)
    fields = [field.strip() for field in row.strip("|").split("|")]
    assert fields[2] == "5" and fields[6:] == ["0.0312", "0.0625"], "2 rows, so Holm doubles the smaller p at most"
    assert "one-sided" in text and "Holm" in text and "toy.yaml" in text and "torch 2.0" in text and "50 %" in text


def test_settings_are_chosen_on_the_validation_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = synthetic()
    for record in records:
        record["distilled"]["valid"]["ndcg@10"] = 0.7
    folder = written(tmp_path / "records", records)
    assert main(["report", str(folder), "--split=valid"]) == 0
    text = capsys.readouterr().out
    assert "validation split, full ranking" in text and "test split" not in text
    (row,) = (line for line in text.splitlines() if line.startswith("| RRD") and "**" in line and "%" in line)
    assert "0.7000 ± 0.0000" in row
    assert main(["report", str(folder), "--split=train"]) == 2
    assert "--split cannot be 'train'. It is one of: test, valid." in capsys.readouterr().err


def test_latex_is_balanced_and_escaped(tmp_path: Path) -> None:
    text = report_of(written(tmp_path / "records", synthetic()), "tex")
    for environment in ("table*", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 3
    assert r"\textbf{0.4011 $\pm$ 0.0010}" in text and r"50 \%" in text
    assert r"\textbar{}" in as_tex("|") and as_tex("[2]*") == "{[}2{]}{*}", (
        "an argument, or a star, of the line's end before it"
    )
    body = re.sub(r"(?m)^%.*$", "", text)
    assert not re.search(r"(?<!\\)%(?!\n)", body) and body.count("{") == body.count("}")


def test_a_command_over_several_lines_stays_a_comment(tmp_path: Path) -> None:
    folder = written(tmp_path / "records", [{**record, "command": "run \\\n\\input{x}"} for record in synthetic()])
    text = report_of(folder, "tex")
    assert "%   \\input{x}" in text and not re.search(r"(?m)^[^%]*input", text)


def test_an_undefined_metric_is_left_out(tmp_path: Path) -> None:
    records = synthetic()
    for record in records[:2]:
        record["distilled"]["test"]["ndcg@10"] = math.nan
    folder = written(tmp_path / "records", records)
    assert not records_of(folder)[1]
    for kind in ("md", "tex", "html"):
        assert "nan" not in re.sub("<svg.*?</svg>", "", report_of(folder, kind), flags=re.DOTALL)


def test_gaps_and_tests_of_another_metric(tmp_path: Path) -> None:
    records = synthetic()
    for record in records:
        for role, loss in (("teacher", 1.0), ("student", 3.0), ("distilled", 1.5 + record["seed"] / 100)):
            record[role]["test"] = {**record[role]["test"], "rmse": loss}
    folder = written(tmp_path / "records", records)
    usual, other = report_of(folder, "md"), report_of(folder, "md", metric="rmse")
    assert "gap recovered (ndcg@10)" in usual and "gap recovered (rmse)" in other
    assert "rmse against 'Student alone'" in other and "the row's rmse is smaller" in other and "| 74 % |" in other
    assert "Smaller is better in rmse, larger in the others." in usual
    assert "ndcg@10 after equal epochs" in other, "what the trainings were stopped by"
    assert main(["report", str(folder), "--metric=RMSE", f"--out={tmp_path / 'report.md'}"]) == 0
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == other
    with pytest.raises(OptionError, match=r"no metric 'rmsee'. Did you mean 'rmse'"):
        report_of(folder, "md", metric="rmsee")


class _Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.seen.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_file_that_needs_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = written(tmp_path / "records", synthetic())
    assert main(["report", str(folder), "--format", "html"]) == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = _Balanced()
    page.feed(text)
    assert not page.open and all(link.startswith(("#", "data:")) for link in page.links), page.links
    assert text.count("<svg") == 6, "learning curves, two sizes, latency, and the experts of two rows"
    assert "<b>0.4011" in text and "<script" not in text and "<?xml" not in text
    assert report_of(folder, "html") == text, "the same records give the same file"


def test_html_hides_columns_of_detail_until_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_derrd.report.html.can_plot", lambda: False)
    records = synthetic()
    few = report_of(written(tmp_path / "few", records), "html")
    for record in records:
        for role in ("teacher", "student", "distilled"):
            score = record[role]["test"]["ndcg@10"]
            record[role]["test"].update({f"hit@{place}": score for place in (1, 5, 10, 20, 50)})
    many = report_of(written(tmp_path / "many", records), "html")
    hidden = [set(re.findall("<th class=detail>([^<]+)</th>", text)) for text in (few, many)]
    assert hidden[0] == {"parameters"} and {"hit@20", "hit@50"} < hidden[1] and "ndcg@10" not in hidden[1]
    for text in (few, many):
        assert '<input type="checkbox" id="all" />' in text and "position: sticky" in text
        for row in re.findall("<tr>(.*?)</tr>", text):
            cells = len(re.findall("<t[hd]", row))
            assert cells > 3
    body = re.search("<tbody>(.*?)</tbody>", many, re.DOTALL)
    assert body and body[1].count("class=detail") == len(hidden[1]) * body[1].count("<tr>")


def test_without_matplotlib_there_are_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "records", synthetic())
    for module in ("recbole_derrd.report.html", "recbole_derrd.report.plots"):
        monkeypatch.setattr(f"{module}.can_plot", lambda: False)
    text = report_of(folder, "html")
    assert "<svg" not in text and "recbole_derrd[plots]" in text and "0.4011" in text
    with pytest.raises(OptionError, match=r"recbole_derrd\[plots\]"):
        report_of(folder, "md", plots=tmp_path / "plots")
    assert main(["report", str(folder), "--format=html"]) == 0
    assert "pip install 'recbole_derrd[plots]'" in capsys.readouterr().err


def test_several_folders_are_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = synthetic()
    folders = [written(tmp_path / "a", records[:5]), written(tmp_path / "b", records[5:])]
    assert main(["report", *map(str, folders)]) == 0
    together = capsys.readouterr().out
    assert together == report_of(written(tmp_path / "all", records), "md")
    assert "| DE |" in together and "| RRD |" in together
    assert main(["report", *map(str, folders), "--format=html"]) == 2 and "--out=" in capsys.readouterr().err
    assert not (folders[0] / "report.html").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"data": {}},
        {"distilled": {"model": "BPR"}},
        {"distilled": {"model": "BPR", "test": {"ndcg@10": None}}},
        {"protocol": {}},
        {"protocol": "full"},
        {"seed": "x"},
        {"teacher": "BPR"},
        {"teachers": ["BPR"]},
        {"schema": 99},
        {"benchmark": "citeulike"},
        {"benchmark": {"position": None}},
        {"teacher": {"model": "BPR", "test": {"ndcg@10": 0.4}, "latency": "fast"}},
        {"cost": {"total_seconds": "long"}},
        {"teacher": {"model": "BPR", "test": {"ndcg@10": 0.4}, "settings": "small"}},
        {"teacher": {"model": "BPR", "test": {"ndcg@10": 0.4}, "settings": {"members": "BPR"}}},
        {"teacher": {"model": "BPR", "test": {"ndcg@10": 0.4}, "valid_scores": [[1]]}},
    ],
    ids=str,
)
def test_a_record_that_is_not_whole_is_named_and_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = written(tmp_path / "records", synthetic())
    (folder / "odd.json").write_text(json.dumps({**synthetic()[0], **change}))
    records, damaged = records_of(folder)
    assert len(records) == 10 and [source.path.name for source in damaged] == ["odd.json"]


def test_mistakes_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ([str(tmp_path / "empty")], "no record in"),
        ([str(tmp_path / "nowhere")], "There is no folder or file"),
        ([], "needs a name"),
        ([str(tmp_path), "--formt=md"], "Did you mean 'format'"),
        ([str(tmp_path), "--format=pdf"], "one of: md, tex, html"),
    ):
        assert main(["report", *arguments]) == 2 and words in capsys.readouterr().err
    folder = written(tmp_path / "records", synthetic())
    (folder / "torn.json").write_text("{")
    (folder / "other.json").write_text("[]")
    records, damaged = records_of(folder)
    assert len(records) == 10 and [source.path.name for source in damaged] == ["torn.json"]
    assert "torn.json' is left out: it is no JSON" in report_of(folder, "md")
    with pytest.raises(DataError, match=r"No record in '.*' can be read: '.*torn.json' is no JSON"):
        (tmp_path / "empty" / "torn.json").write_text("{")
        records_of(tmp_path / "empty")


def test_a_printed_report_does_not_wait_for_torch(tmp_path: Path) -> None:
    folder = written(tmp_path / "records", synthetic())
    code = (
        f"import sys\nfrom recbole_derrd.cli import main\nassert main(['report', {str(folder)!r}]) == 0\n"
        "assert not {'torch', 'recbole'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=tmp_path)


def test_what_is_named_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    folder = written(tmp_path / "runs" / "toy", synthetic())
    once = records_of(tmp_path / "runs")[0]
    several = records_of(tmp_path / "runs", folder, folder / "000.json", folder / ".." / "toy" / "001.json")[0]
    assert [record.source for record in several] == [record.source for record in once] and len(once) == 10
