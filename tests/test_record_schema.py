"""The declared record: JSON there and back, each field damaged, earlier versions, and one record a line."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_records import made, rich, synthetic, written

from recbole_derrd.cli import main
from recbole_derrd.errors import DataError
from recbole_derrd.report.declaration import Declared
from recbole_derrd.report.document import report_of
from recbole_derrd.report.reading import read_records, records_of
from recbole_derrd.report.schema import SCHEMA, RunRecord, Source
from recbole_derrd.runtime import json_files
from recbole_derrd.runtime.json_files import read_json_lines

# -- there and back

names = st.text("abcß$_@10", min_size=1, max_size=6)
scores = st.floats(-1e6, 1e6) | st.just(float("nan"))
metrics = st.dictionaries(names, scores, min_size=1, max_size=3)
costs = st.none() | st.integers(0, 10**9) | st.floats(0, 1e9)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | names
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
anything = st.dictionaries(names, values, max_size=3)
curves = st.lists(st.tuples(st.integers(0, 99), scores), max_size=4, unique_by=lambda point: point[0]).map(
    lambda points: [list(point) for point in sorted(points, key=lambda point: point[0])]
)
latencies = st.none() | st.fixed_dictionaries(
    {"p50_ms": costs, "p99_ms": costs, "users_per_second": costs}, optional={"device": names, "threads": st.just(2)}
)
entries = st.fixed_dictionaries(
    {"model": names, "test": metrics},
    optional={
        "valid": metrics, "key": names, "params": costs, "bytes": costs, "bytes_per_item": costs, "seconds": costs,
        "latency": latencies, "valid_scores": curves, "progress": anything, "found": st.booleans(),
        "settings": anything.filter(lambda given: "members" not in given),
    },
)  # fmt: skip
drawn_records = st.fixed_dictionaries(
    {
        "schema": st.just(SCHEMA), "model": names, "dataset": names, "seed": st.integers(-(2**40), 2**40),
        "protocol": st.fixed_dictionaries({"mode": names | st.fixed_dictionaries({"valid": names, "test": names})}),
        "valid_metric": names, "distilled": entries,
        "data": st.fixed_dictionaries(
            {"fingerprint": st.fixed_dictionaries({"ids": names, "test": names}, optional={"train": names})},
            optional={"users": st.none() | st.integers(0, 99), "files": st.dictionaries(names, names, max_size=2)},
        ),
    },
    optional={
        "teacher": st.none() | entries, "teachers": st.none() | st.lists(entries, max_size=2), "student": entries,
        "options": anything, "warnings": st.lists(names, max_size=2), "split_seed": st.none() | st.integers(0, 9),
        "benchmark": st.fixed_dictionaries({"position": st.integers(0, 9)}, optional={"experiment": names}),
        "gap_recovered": st.none() | st.dictionaries(names, st.none() | scores, max_size=2),
        "cost": st.none() | st.fixed_dictionaries({"total_seconds": costs}),
        "an unknown field": anything,
    },
)  # fmt: skip


def everything() -> dict[str, Any]:
    """A record with every field; that of an evaluated checkpoint is of no run."""
    return {**rich(), "evaluated": "s.pth"}


def same(one: Any, other: Any) -> bool:
    """Whether two are the same as JSON, in which an undefined number equals another."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def told(content: Any) -> Any:
    """JSON without what says nothing: null, empty lists and dicts."""
    if isinstance(content, dict):
        return {key: one for key, value in content.items() if (one := told(value)) not in (None, [], {})}
    return [told(one) for one in content] if isinstance(content, list) else content


@settings(deadline=None)
@given(drawn_records)
def test_a_record_is_the_same_after_json(content: dict[str, Any]) -> None:
    record = RunRecord.from_json(content)
    written_out = json.loads(json.dumps(record.to_json()))
    again = RunRecord.from_json(written_out)
    assert same(again.to_json(), written_out) and list(written_out) == ["schema", *DECLARED]
    kept = {key: value for key, value in content.items() if key != "an unknown field"}
    assert told(kept).keys() <= told(written_out).keys()
    for key, value in told(kept).items():
        assert same(value, told(written_out)[key]), key


DECLARED = [field.name for field in dataclasses.fields(RunRecord) if "check" in field.metadata]


def test_a_record_with_everything_is_the_same_after_json() -> None:
    content = everything()
    record = RunRecord.from_json(content)
    assert same(record.to_json(), content)
    assert RunRecord.from_json(record.to_json()) == record


def parts(value: Declared, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each declared field of a part and of the parts in it, with its value."""
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        if "check" in field.metadata:
            own, place = getattr(value, field.name), (*path, field.name)
            yield place, own
            several = own if isinstance(own, list) else [own]
            for number, one in enumerate(several):
                if isinstance(one, Declared):
                    yield from parts(one, (*place, number) if isinstance(own, list) else place)


FIELDS = dict(parts(RunRecord.from_json(everything())))


def test_the_record_with_everything_has_every_field() -> None:
    """Or the next test would leave one out."""
    assert len(FIELDS) > 150 and not [place for place, value in FIELDS.items() if value is None or value in ([], {})]


@pytest.mark.parametrize("place", FIELDS, ids=lambda place: ".".join(map(str, place)))
def test_every_field_that_is_of_another_kind_is_named(place: tuple[Any, ...]) -> None:
    content: Any = json.loads(json.dumps(everything()))
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    value = holder[place[-1]]
    # A number for a text, and a text for everything else.
    holder[place[-1]] = 7 if isinstance(value, str) else "x" * 20_000
    if place == ("protocol",):
        holder["protocol"] = {"mode": 7}
    with pytest.raises(ValueError, match=r"^is damaged") as error:
        RunRecord.from_json(content)
    shown = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).lstrip(".")
    assert shown in str(error.value)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("distilled", "params"), -1, "distilled.params is -1, out of its range"),
        (("distilled", "test"), {}, "distilled.test has 0 keys, fewer than 1"),
        (("distilled", "valid_scores"), [[1, 0.1], [1, 0.2]], "distilled.valid_scores does not rise in its epochs"),
        (("cost", "epoch_seconds"), [1.0, "long"], "cost.epoch_seconds[1] is 'long', not a number"),
        (("teachers", 1, "latency", "p50_ms"), 1e10, "teachers[1].latency.p50_ms is 10000000000.0, out of its range"),
        (("data", "fingerprint", "test"), None, "data.fingerprint.test is None, not a text"),
        (("diagnostics", "de", "expert_utilisation", "activity"), [[1, 2]], "mean_utilisation has lines of several"),
        (("benchmark", "position"), None, "benchmark.position is None, not a whole number"),
        (("stored", "bits"), None, "stored.bits is None, not a whole number"),
        (("schema",), 3, "schema is 3, out of its range"),
        (("schema",), True, "schema is True, not a whole number"),
    ],
    ids=str,
)
def test_a_value_out_of_its_range_is_named(place: tuple[Any, ...], value: Any, words: str) -> None:
    content: Any = json.loads(json.dumps(everything()))
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    with pytest.raises(ValueError) as error:
        RunRecord.from_json(content)
    assert str(error.value).startswith(f"is damaged ({words}") or words in str(error.value)


def test_what_a_method_says_of_itself_is_kept_whatever_it_is() -> None:
    content = made("DE", 1, 0.4, diagnostics={"mine": {"steps": [1, {"a": None}]}})
    record = RunRecord.from_json(content)
    assert record.to_json()["diagnostics"] == content["diagnostics"] and record.expert_utilisations() == {}


def test_a_record_of_an_earlier_version_says_so(tmp_path: Path) -> None:
    folder = written(tmp_path / "records", [*synthetic()[:2], {"schema": 1, "model": "BPR", "expert_choice": None}])
    records, unread = records_of(folder)
    (fault,) = unread.values()
    assert len(records) == 2 and fault.startswith("was written by an earlier version (schema 1; this one reads 2)")
    assert "is left out: it was written by an earlier version" in report_of(folder, "md")
    only = written(tmp_path / "only", [{"schema": 1}, {"schema": 2}])
    with pytest.raises(
        DataError,
        match=r"No record in .* can be read: .*000.json' was written by an earlier version .*command \(1 more cannot",
    ):
        records_of(only)


# -- one record a line


def lines_of(path: Path, *contents: Any) -> Path:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in contents), "utf-8")
    return path


def test_lines_files_and_folders_are_read_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = synthetic()
    folder = written(tmp_path / "records", records[:3])
    lines = lines_of(tmp_path / "rest.jsonl", *records[3:9])
    single = tmp_path / "last.json"
    single.write_text(json.dumps(records[9], indent=1))
    assert main(["report", str(folder), str(lines), str(single)]) == 0
    together = capsys.readouterr().out
    assert together == report_of(written(tmp_path / "all", records), "md")
    found, unread = read_records(folder, lines, single)
    assert not unread and [record.seed for record in found] == [record["seed"] for record in records]
    assert found[3].source == Source(lines, 1) and found[9].source == Source(single)
    lines.rename(folder / "rest.jsonl")
    assert len(read_records(folder)[0]) == 9


def test_a_damaged_line_is_named_by_its_number_and_the_others_are_read(tmp_path: Path) -> None:
    good, broken = synthetic()[0], {**synthetic()[1], "seed": "x"}
    path = lines_of(tmp_path / "a.jsonl", good, "", "{", broken, '{"another": "program"}', {**good, "schema": 1})
    with path.open("ab") as file:
        file.write(b'{"schema": "\xe9"}\n')
        file.write(b"[" * 100_000 + b"\n")
        file.write(json.dumps(synthetic()[2]).encode())
    records, unread = read_records(path)
    assert [record.source for record in records] == [Source(path, 1), Source(path, 9)]
    words = {3: "is no JSON: Expecting", 4: "is damaged (seed is 'x'", 6: "was written by an earlier version",
             7: "is no UTF-8 text", 8: "is nested too deeply"}  # fmt: skip
    assert {source.line for source in unread} == words.keys()
    for source, fault in unread.items():
        assert words[source.line or 0] in fault
    text = report_of(path, "md")
    assert (
        "The record in line 4 of '" in text and "is left out: it is damaged (seed is 'x', not a whole number)." in text
    )


def test_a_line_and_a_file_may_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "MAX_BYTES", 1 << 20)
    path = lines_of(tmp_path / "a.jsonl", [1], f'"{"x" * (1 << 20)}"', [2], f'"{"x" * (3 << 20)}"', [3])
    found = dict(read_json_lines(path))
    assert [found[number] for number in (1, 3, 5)] == [[1], [2], [3]]
    assert all(str(found[number]) == "has more than 1 MB" for number in (2, 4))
    os.truncate(path, (1 << 30) + 1)
    (fault,) = read_records(path)[1].values()
    assert "more than 1024" in fault


def test_an_html_report_of_a_file_lies_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lines_of(tmp_path / "a.jsonl", *synthetic())
    assert main(["report", str(path), "--format=html"]) == 0
    assert (tmp_path / "a.html").exists()
    assert main(["report", str(tmp_path / "nowhere.jsonl")]) == 2
    assert "There is no folder or file" in capsys.readouterr().err
    lines_of(path, {"file": "of another program"})
    assert main(["report", str(path)]) == 2 and "There is no record in" in capsys.readouterr().err
