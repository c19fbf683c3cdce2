"""Data files that RecBole would misread, or fail on without a reason: refused with file, line and remedy."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES
from recbole.data.dataset import Dataset
from recbole.utils import FeatureSource

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.atomic_files import data_files
from recbole_derrd.data.file_checks import check, check_files, rows
from recbole_derrd.data.file_checks.missing import NO_VALUE, is_missing
from recbole_derrd.data.file_checks.rows import Rows, Table, read_rows
from recbole_derrd.data.file_checks.text import TextError, text_blocks
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import DataError, OptionError

Settings = Callable[..., dict[str, Any]]

HEAD = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ROW = b"u\ti\t3\t9\n"
#: What RecBole's defaults are, as far as reading files goes.
DEFAULTS: dict[str, Any] = {
    "dataset": "odd", "encoding": "utf-8", "field_separator": "\t", "seq_separator": " ", "seq_len": None,
    "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp", "LABEL_FIELD": "label",
    "load_col": {"inter": ["user_id", "item_id"]}, "unload_col": None, "additional_feat_suffix": None,
    "benchmark_filename": None, "threshold": None, "val_interval": None, "rm_dup_inter": None,
    "filter_inter_by_user_or_item": True, "user_inter_num_interval": "[0,inf)", "item_inter_num_interval": "[0,inf)",
    "eval_args": {"order": "RO", "split": {"RS": [0.8, 0.1, 0.1]}},
}  # fmt: skip
ALL = {"load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}}
TO = {"eval_args": {"order": "TO", "split": {"LS": "valid_and_test"}}}


@pytest.fixture(autouse=True)
def said_anew() -> None:
    check._log_once.cache_clear()


def wrote(folder: Path, files: bytes | dict[str, bytes], **more: Any) -> dict[str, Any]:
    """Write files, odd.inter where there is but one, and return the settings that read them."""
    place = folder / "odd"
    place.mkdir(exist_ok=True)
    for name, content in (files if isinstance(files, dict) else {"odd.inter": files}).items():
        (place / name).write_bytes(content)
    return {**DEFAULTS, "data_path": str(place), **more}


#: What is in the file (or files), settings, words of the refusal.
REFUSED: dict[str, tuple[bytes | dict[str, bytes], dict[str, Any], str]] = {
    "nothing": (b"", {}, "is empty. Its first line names the columns"),
    "blank first line": (b"\n" + HEAD + ROW, {}, "has an empty first line"),
    "no types": (b"user_id\titem_id\nu\ti\n", {}, "must name its columns as name:type in the first line"),
    "one type missing": (HEAD.replace(b":float\t", b"\t") + ROW, {}, "must name its columns as name:type"),
    "a name with a colon": (HEAD.replace(b"rating", b"r:t") + ROW, {}, "but one is 'r:t:float'"),
    "no name": (HEAD.replace(b"rating", b"") + ROW, {}, "but one is ':float'"),
    "commas": (HEAD.replace(b"\t", b",") + ROW.replace(b"\t", b","), {}, r"--field_separator=,"),
    "other names": (
        b"user:token\titem_id:token\nu\ti\n",
        {},
        "no column 'user_id', only user, item_id.*USER_ID_FIELD=",
    ),
    "a name with a blank": (
        b"user_id :token\titem_id:token\nu\ti\n",
        {},
        "no column 'user_id', only 'user_id ', item_id",
    ),
    "a type of other programs": (HEAD.replace(b"user_id:token", b"user_id:str") + ROW, {}, "type 'str'.*user_id:token"),
    "a type with a blank": (
        HEAD.replace(b"d:token\t", b"d:token \t", 1) + ROW,
        {},
        "type 'token '.*Write user_id:token",
    ),
    "a misspelt type": (HEAD.replace(b":float\n", b":flaot\n") + ROW, {}, "type 'flaot'.*Did you mean 'float'"),
    "items as numbers": (HEAD.replace(b"item_id:token", b"item_id:float") + ROW, {}, "Write item_id:token"),
    "users as lists": (HEAD.replace(b"user_id:token", b"user_id:token_seq") + ROW, {}, "Write user_id:token"),
    "a column twice": (HEAD.replace(b"rating:float", b"item_id:token") + ROW, {}, "names the column 'item_id' twice"),
    "a first line alone": (HEAD, {}, "has no rows"),
    "not even its end": (HEAD[:-1], {}, "has no rows"),
    "blank rows alone": (HEAD + b"\n  \n\n", {}, "has no rows"),
    # Rows that are not as wide as the header
    "one tab more in each row": (HEAD + 3 * b"u\ti\t3\t9\t\n", {}, "has 5 fields in line 2,.*4 columns.*one tab"),
    "one tab more behind blank lines": (HEAD + b"\n\n" + 3 * b"u\ti\t3\t9\t\n", {}, "has 5 fields in line 4,"),
    "a field more": (HEAD + ROW + b"u\ti\tx\t3\t9\n" + ROW, {}, "has 5 fields in line 3,.*4 columns"),
    "a field less": (HEAD + ROW + b"u\t3\t9\n" + ROW, {}, "has 3 fields in line 3,.*4 columns"),
    "cut off": (HEAD + ROW + b"u\ti\t", {}, "has 3 fields in line 3,"),
    "mixed separators": (HEAD + ROW + b"u,i,3,9\n", {}, "has 1 field in line 3,"),
    "an index of two rows": (b"user_id:token\titem_id:token\nu\ti\nv\tj\t\t\n", {}, "has 4 fields in line 3,"),
    "an old Mac's": ((HEAD + ROW + b"u\ti\n").replace(b"\n", b"\r"), {}, "has 2 fields in line 3,"),
    "of Windows": ((HEAD + ROW + b"u\ti\n").replace(b"\n", b"\r\n"), {}, "has 2 fields in line 3,"),
    "far down": (HEAD + 90000 * ROW + b"u\ti\n", {}, "has 2 fields in line 90002,"),
    "quoted": (HEAD + b'"u"\ti\t3\t9\n' + b'"u\ti"\t3\t9\n', {}, "has 3 fields in line 3,"),
    "several signs": ((HEAD + b"u\ti\n").replace(b"\t", b"::"), {"field_separator": "::"}, "2 fields in line 2,.*'::'"),
    "a regular expression": (
        (HEAD + ROW).replace(b"\t", b"||"),
        {"field_separator": "||"},
        r"split elsewhere than at '\|\|' in line 1",
    ),
    "no regular expression": ((HEAD + ROW).replace(b"\t", b"(("), {"field_separator": "(("}, "Use a separator of one"),
    "no separator": (HEAD + ROW, {"field_separator": ""}, "field_separator must be what is between the columns"),
    "a part": (
        {"odd.a.inter": HEAD + ROW, "odd.b.inter": HEAD + ROW, "odd.c.inter": HEAD + ROW + b"u\ti\n"},
        {"benchmark_filename": ["a", "b", "c"]},
        r"odd\.c\.inter' has 2 fields in line 3,",
    ),
    "features": (
        {"odd.inter": HEAD + ROW, "odd.item": b"item_id:token\tclass:token\ni\tx\t\n"},
        {"load_col": None},
        r"odd\.item' has 3 fields in line 2,.*2 columns",
    ),
    # Quotes
    "a quote never closed": (HEAD + ROW + b'"u\ti\t3\t9\n' + ROW, {}, "line 3 that begins with a quote.*never closed"),
    "a quote closed too early": (HEAD + ROW + b'"u"x\ti\t3\t9\n', {}, "begins with a quote .* in line 3 and goes on"),
    "quotes that swallow rows": (
        HEAD + ROW + b'u\t"\t3\t9\n' + ROW + b'u\t"\t3\t9\n',
        {},
        "quote .* in line 3 that closes in line 5 only",
    ),
    # Bytes
    "Latin-1": (
        HEAD + ROW + b"caf\xe9\ti\t3\t9\n",
        {},
        "the byte 0xE9 in line 3, which is no utf-8.*--encoding=latin-1",
    ),
    "half a letter": (HEAD + ROW + b"u\ti\t3\t\xc3", {}, "the byte 0xC3 in line 3, which is no utf-8"),
    "no byte of its encoding": (
        HEAD + b"\x81\ti\t3\t9\n",
        {"encoding": "cp1252"},
        "0x81 in line 2, which is no cp1252",
    ),
    "UTF-16": (
        (HEAD + ROW).decode().encode("utf-16"),
        {},
        "mark of UTF-16, and is read as utf-8: set --encoding=utf-16",
    ),
    "UTF-16 without a mark": (
        (HEAD + ROW).decode().encode("utf-16-le"),
        {},
        "a NUL byte in line 1: .* no text in utf-8",
    ),
    "a mark that is not expected": (
        b"\xef\xbb\xbf" + HEAD + ROW,
        {"encoding": "latin-1"},
        "of UTF-8.*take out encoding",
    ),
    "a NUL byte": (HEAD + ROW + b"u\0\ti\t3\t9\n", {}, "a NUL byte in line 3"),
    "no such encoding": (HEAD + ROW, {"encoding": "utf-99"}, "'utf-99' is no encoding.*Did you mean 'utf-8'"),
    "no encoding of text": (HEAD + ROW, {"encoding": "hex"}, "'hex' is no encoding of text"),
    "zip": (b"PK\x03\x04" + HEAD, {}, "is no text: it is a zip archive"),
    "gzip": (b"\x1f\x8b\x08" + HEAD, {}, "it is gzip-compressed"),
    "Parquet": (b"PAR1" + HEAD, {}, "it is a Parquet file"),
    # Columns that settings need
    "no item": (HEAD + ROW, {"load_col": {"inter": ["user_id"]}}, r"'item_id', and load_col.*\[user_id, item_id\]"),
    "letters": (HEAD + ROW, {"load_col": {"inter": "user_id"}}, "load_col must list the columns of inter"),
    "a list": (HEAD + ROW, {"load_col": ["user_id", "item_id"]}, "load_col must say for each kind of file"),
    "unloaded": (
        HEAD + ROW,
        {"load_col": None, "unload_col": {"inter": ["user_id"]}},
        "'user_id', and load_col or unload_",
    ),
    "no time is loaded": (
        HEAD + ROW,
        TO,
        r"'timestamp', which eval_args with order: TO needs, .* \{inter: \[user_id, item_id, timestamp\]\}",
    ),
    "no time at all": (
        b"user_id:token\titem_id:token\nu\ti\n",
        TO,
        "no column 'timestamp',.* only user_id, item_id.*RO",
    ),
    "no time to split by": (
        HEAD + ROW,
        {"eval_args": {"order": "RO", "split": {"TS": [0.8, 0.1, 0.1]}}},
        "'timestamp', which eval_args with sp",
    ),
    "a time of tokens": (HEAD.replace(b"timestamp:float", b"timestamp:token") + ROW, {**ALL, **TO}, "timestamp:float"),
    "no rating for threshold": (
        HEAD + ROW,
        {"threshold": {"rating": 4}},
        "'rating', which threshold needs, .*load_col",
    ),
    "another rating": (
        HEAD + ROW,
        {**ALL, "threshold": {"stars": 4}},
        "no column 'stars', which threshold needs, only",
    ),
    "ratings of tokens": (
        HEAD.replace(b"rating:float", b"rating:token") + ROW,
        {**ALL, "threshold": {"rating": 4}},
        "Write rating:float",
    ),
    "no rating for val_interval": (
        HEAD + ROW,
        {"val_interval": {"rating": "[3,inf)"}},
        "which val_interval needs, .*load",
    ),
    "a feature that is not loaded": (
        {"odd.inter": HEAD + ROW, "odd.user": b"user_id:token\tage:float\nu\t20\n"},
        {"val_interval": {"age": "[18,30]"}},
        r"odd\.user' has the column 'age'.*user: \[user_id, age\] in load_col",
    ),
    "no such column of features": (
        HEAD + ROW,
        {**ALL, "val_interval": {"age": "[3,4]"}},
        "'age', which val_interval needs",
    ),
    "labels of tokens": (
        HEAD.replace(b"rating:float", b"label:token") + ROW,
        {"load_col": None},
        "'label' the type 'token'. Write label:float",
    ),
    # Missing values
    "users and items missing": (
        HEAD + b"u\t\t3\t9\n" + ROW + b"NA\ti\t3\t9\n",
        {},
        "without 'user_id', .* line 4, where 'NA'",
    ),
    "an id missing in a part": (
        {f"odd.{part}.inter": HEAD + ROW + b"\ti\t3\t9\n" for part in "abc"},
        {"benchmark_filename": ["a", "b", "c"]},
        "has 1 row without 'user_id', the first in line 3",
    ),
    "features of nothing": (
        {"odd.inter": HEAD + ROW, "odd.item": b"item_id:token\tclass:token\ni\tx\n\tx\n"},
        {"load_col": None},
        r"odd\.item' has 1 row without 'item_id', the first in line 3",
    ),
    "no time of its own": (
        HEAD + ROW + 2 * b"u\ti\t3\t\n",
        {**ALL, **TO},
        r"has 2 rows without a number in 'timestamp', .* line 3 .*mean",
    ),
    "a time that is none": (
        HEAD + ROW + b"u\ti\t3\tNaN\n",
        {**ALL, **TO},
        r"1 row .* 'timestamp', .* line 3 \('NaN'\)",
    ),
    "a blank around": (
        HEAD + ROW + b"u\ti\t3\t nan \n",
        {**ALL, **TO},
        r"'timestamp', the first in line 3 \(' nan '\)",
    ),
    "the order of duplicates": (
        HEAD + b"u\ti\t3\t\n",
        {**ALL, "rm_dup_inter": "first"},
        "'timestamp'.*rm_dup_inter needs",
    ),
    "no rating of its own": (
        HEAD + b"u\ti\t\t9\n",
        {**ALL, "threshold": {"rating": 4}},
        "in 'rating', .*threshold needs",
    ),
    "quoted, and no rating": (HEAD + b'"u"\ti\t\t9\n', {**ALL, "threshold": {"rating": 4}}, "in 'rating', .* line 2"),
    "no label of its own": (
        HEAD.replace(b"rating", b"label") + b"u\ti\t\t9\n",
        {"load_col": None},
        "LABEL_FIELD needs it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_misread_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    files, more, words = REFUSED[name]
    with pytest.raises((DataError, OptionError), match=words):
        check_files(wrote(tmp_path, files, **more))


#: What is in the file, settings, the users and items that are read.
READ: dict[str, tuple[bytes, dict[str, Any], list[tuple[str, str]]]] = {
    "plain": (HEAD + ROW, {}, [("u", "i")]),
    "blank lines": (HEAD + b"\n" + ROW + b"  \n\n" + ROW + b"\n", {}, 2 * [("u", "i")]),
    "no end": (HEAD + ROW[:-1], {}, [("u", "i")]),
    "Windows": ((HEAD + b"\n" + ROW + ROW).replace(b"\n", b"\r\n"), {}, 2 * [("u", "i")]),
    "old Mac": ((HEAD + ROW + ROW).replace(b"\n", b"\r"), {}, 2 * [("u", "i")]),
    "blanks in ids": (HEAD + b" u \ti j\t3\t9\n", {}, [(" u ", "i j")]),
    "quoted": (HEAD + b'"u\tv"\t"a ""b"""\t3\t9\n', {}, [("u\tv", 'a "b"')]),
    "a line in a field": (HEAD + b'"u\nv"\ti\t3\t9\n' + ROW, {}, [("u\nv", "i"), ("u", "i")]),
    "a quote within": (HEAD + b'5" disc\tit"s\t3\t9\n', {}, [('5" disc', 'it"s')]),
    "tabs behind a later row": (HEAD + ROW + b"v\tj\t3\t9\t\t\n", {}, [("u", "i"), ("v", "j")]),
    "a mark": (b"\xef\xbb\xbf" + HEAD + "ü\té\t3\t9\n".encode(), {}, [("ü", "é")]),
    "a mark that is expected": (b"\xef\xbb\xbf" + HEAD + ROW, {"encoding": "utf-8-sig"}, [("u", "i")]),
    "Latin-1": (HEAD + b"\xfc\ti\t3\t9\n", {"encoding": "latin-1"}, [("ü", "i")]),
    "UTF-16": ((HEAD.decode() + "ü\ti\t3\t9\n").encode("utf-16"), {"encoding": "utf-16"}, [("ü", "i")]),
    "several signs": ((HEAD + ROW).replace(b"\t", b"::"), {"field_separator": "::"}, [("u", "i")]),
    "one sign of two bytes": (
        (HEAD + ROW).decode().replace("\t", "·").encode(),
        {"field_separator": "·"},
        [("u", "i")],
    ),
    "spaces": ((HEAD + ROW).replace(b"\t", b" "), {"field_separator": " "}, [("u", "i")]),
    "twice, but not read": (HEAD.replace(b"timestamp", b"rating") + ROW, {}, [("u", "i")]),
    "no number, but not read": (HEAD + b"u\ti\tgood\t\n", {}, [("u", "i")]),
}


def read_by_recbole(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Return users and items as RecBole's own call of pandas gives them."""
    dataset = object.__new__(Dataset)
    dataset.config, dataset.logger = settings, check.getLogger()
    dataset.field2source, dataset.field2type, dataset.field2seqlen, dataset.field2bucketnum = {}, {}, {}, {}
    file = Path(settings["data_path"]) / "odd.inter"
    feat = dataset._load_feat(str(file), FeatureSource.INTERACTION).astype(object)
    found = feat.where(feat.notna(), None)[["user_id", "item_id"]]
    return list(found.itertuples(index=False, name=None))


@pytest.mark.parametrize("name", READ)
def test_what_is_read_rightly_is_not_refused(tmp_path: Path, name: str) -> None:
    content, more, expected = READ[name]
    given = wrote(tmp_path, content, **more)
    assert read_by_recbole({**given, "encoding": check_files(given)}) == expected


#: What is in the file, settings, words of the warning.
WARNED: dict[str, tuple[bytes | dict[str, bytes], dict[str, Any], str]] = {
    "no user": (
        HEAD + ROW + 2 * b"\ti\t3\t9\n",
        {},
        "has 2 rows without 'user_id', the first in line 3. RecBole leaves",
    ),
    "an item that is called so": (
        HEAD + ROW + b"u\tnull\t3\t9\n",
        {},
        "'item_id', .* where 'null' is read as no value",
    ),
    "no rating": (HEAD + ROW + b"u\ti\t\t9\n", {**ALL, "val_interval": {"rating": "[3,4]"}}, "1 row .*are left out"),
    "misspelt": (
        HEAD + ROW,
        {"load_col": {"inter": ["user_id", "item_id", "ratin"]}},
        "names ratin, and .* not loaded",
    ),
    "filters of parts": (
        {f"odd.{part}.inter": HEAD + ROW for part in "abc"},
        {"benchmark_filename": ["a", "b", "c"], "val_interval": {"rating": "[3,4]"}},
        "val_interval changes nothing",
    ),
}


@pytest.mark.parametrize("name", WARNED)
def test_what_is_left_out_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    files, more, words = WARNED[name]
    given = wrote(tmp_path, files, **more)
    check_files(given)
    check_files(given)
    (record,) = caplog.records
    assert re.search(words, record.getMessage()), record.getMessage()


def test_nothing_is_said_of_good_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_files(wrote(tmp_path, HEAD + ROW, **ALL, **TO))
    assert not caplog.records


@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing", "loop", "absent"])
def test_what_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    given = wrote(tmp_path, {"other.inter": HEAD + ROW})
    file = Path(given["data_path"]) / "odd.inter"
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind != "absent":
        file.symlink_to("nowhere" if kind == "nothing" else file.name)
    words = {
        "folder": "is a folder", "pipe": "is a pipe", "nothing": "is a link to 'nowhere', and there is no file",
        "loop": "is a link to 'odd.inter', and there is no file", "absent": "no file .*, and its folder has other.",
    }  # fmt: skip
    with pytest.raises(DataError, match=words[kind]):
        check_files(given)
    # A pipe would be waited for, a folder cannot be hashed.
    assert data_files(given) == {}


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions say nothing to the user root, as whom tests may run."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    given = wrote(tmp_path, HEAD + ROW)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"odd\.inter' cannot be opened: Permission denied"):
        check_files(given)


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        check, "read_rows", lambda table: seen.append(table.file) or Rows(1, None, read_rows(table).missing)
    )
    given = wrote(tmp_path, HEAD + ROW)
    for _ in range(3):
        check_files(given)
    assert len(seen) == 1
    wrote(tmp_path, HEAD + ROW + ROW)
    check_files(given)
    assert len(seen) == 2


# Against an obvious parser


def obvious_rows(text: str, separator: str) -> list[tuple[int, list[str]]] | int:
    """Return line and fields of each row, read letter by letter; or the line of a row whose quotes are wrong."""
    found: list[tuple[int, list[str]]] = []
    line, place, ends = 1, 0, ("\r\n", "\n", "\r")
    while place < len(text):
        first, fields, field, raw = line, [], "", place
        while True:
            if field == "" and text.startswith('"', place):
                place += 1
                while not (text.startswith('"', place) and not text.startswith('""', place)):
                    if place >= len(text):
                        return first
                    step = 2 if text[place : place + 2] in ('""', "\r\n") else 1
                    line += text[place] in "\r\n"
                    field += '"' if text[place] == '"' else text[place : place + step]
                    place += step
                place += 1
                if place < len(text) and not text.startswith((separator, *ends), place):
                    return first
            while place < len(text) and not text.startswith((separator, *ends), place):
                field += text[place]
                place += 1
            fields.append(field)
            field = ""
            if not text.startswith(separator, place):
                break
            place += len(separator)
        whole = re.split(r"\r\n|\n|\r", text[raw:place])
        if len(whole) > 1 and all(one.count(separator) == 1 for one in whole):
            return first
        if len(fields) > 1 or fields[0].strip():
            found.append((first, fields))
        place += next((len(end) for end in ends if text.startswith(end, place)), 0)
        line += 1
    return found


def first_fault(text: str, separator: str) -> int | list[tuple[int, list[str]]]:
    """Return the line of the first row that has no two fields, or all rows."""
    # Rows before one whose quotes are wrong come first.
    found = obvious_rows(text, separator)
    upto = (
        []
        if isinstance(found, list)
        else obvious_rows("".join(re.findall(r".*?(?:\r\n|\n|\r|$)", text, re.S)[: found - 1]), separator)
    )
    for index, (line, fields) in enumerate(found if isinstance(found, list) else upto):
        extra = index > 0 and not (index == 1 and len(fields) == 4) and not "".join(fields[2:]).strip()
        if len(fields) < 2 or (len(fields) > 2 and not extra):
            return line
    return found


pieces = st.sampled_from(
    ["a", "b", "é", "\t", "\t", "\n", "\n", "\r\n", "\r", '"', " ", "NA", "a\tb\n", "b\ta\n", '"a"']
)


@given(st.lists(pieces, max_size=14).map("".join))
@settings(max_examples=60, deadline=None)
def test_every_file_is_refused_with_its_line_or_read_as_it_stands(tmp_path_factory: Any, text: str) -> None:
    expected = first_fault(text, "\t")
    folder = tmp_path_factory.getbasetemp() / "drawn"
    folder.mkdir(exist_ok=True)
    head = "user_id:token\titem_id:token\n"
    given = wrote(folder, (head + text).encode())
    if isinstance(expected, int):
        with pytest.raises(DataError, match=rf"line {expected + 1}\b"):
            check_files(given)
        return
    ids = [tuple(None if value in NO_VALUE else value for value in fields[:2]) for _, fields in expected]
    lacking = [any(pair[side] is None for pair in ids) for side in (0, 1)]
    if not ids or all(lacking):
        with pytest.raises(DataError, match="no rows" if not ids else "without 'user_id'"):
            check_files(given)
        return
    assert check_files(given) == "utf-8"
    assert read_by_recbole(given) == ids


values = st.sampled_from(["", "u", "NA", "nan", " nan", "-1", "-1.#IND", "1.5", "+NAN", "n/a", "nand", "é"])


@given(st.lists(st.one_of(st.just(None), st.tuples(values, values)), max_size=8), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_counting_is_reading_row_by_row(tmp_path_factory: Any, drawn: list[Any], size: int) -> None:
    """Wherever blocks end, blank lines among them."""
    file = tmp_path_factory.getbasetemp() / "counted.inter"
    file.write_text("a:token\tb:float\n" + "".join("\n" if row is None else "\t".join(row) + "\n" for row in drawn))
    table = Table(str(file), "utf-8", "\t", 2, (0,), (1,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "text_blocks", lambda file, encoding: text_blocks(file, encoding, size))
        counted = rows._counted(table, b"\t")
    assert counted is not None and counted == rows._read(table)
    expected = [(line, row) for line, row in enumerate(drawn, 2) if row is not None]
    assert counted.count == len(expected)
    for column, missing in counted.missing.items():
        lines = [line for line, row in expected if is_missing(row[column], number=column == 1)]
        assert (missing.count, missing.line) == (len(lines), lines[0] if lines else 0)


@given(st.lists(st.sampled_from(["a", "é", "\n", "\r\n", "\r", "𝄞"])).map("".join), st.integers(1, 5), st.booleans())
@settings(max_examples=30, deadline=None)
def test_blocks_are_the_text_in_whole_lines(tmp_path_factory: Any, text: str, size: int, wide: bool) -> None:
    encoding = "utf-16" if wide else "utf-8"
    file = tmp_path_factory.getbasetemp() / "blocks.inter"
    file.write_bytes(text.encode(encoding))
    blocks = list(text_blocks(file, encoding, size))
    assert all(block.endswith(b"\n") for block in blocks)
    lines = re.sub(r"\r\n|\r", "\n", text)
    assert b"".join(blocks).decode() == (lines if lines.endswith("\n") or not lines else lines + "\n")


def test_a_line_without_an_end_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_derrd.data.file_checks.text._LONGEST_LINE", 100)
    (tmp_path / "long").write_bytes(b"a\n" + 200 * b"b")
    with pytest.raises(TextError, match="line 2"):
        list(text_blocks(tmp_path / "long", "utf-8", 50))


def test_no_value_is_what_pandas_says() -> None:
    assert NO_VALUE == STR_NA_VALUES


# Through RecBole


def a_run(settings: Settings, folder: Path, files: bytes | dict[str, bytes], **more: Any) -> Any:
    path = str(Path(wrote(folder, files)["data_path"]).parent)
    return prepare_data(DistillConfig("BPR", "odd", config_dict=settings("BPR", data_path=path, **more)))


MANY = b"".join(f"u{n % 12}\ti{n * 7 % 20}\t{1 + n % 5}\t{n}\n".encode() for n in range(96))


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        (HEAD + ROW + b"u\ti\tgood\t9\n" + MANY, ALL, "'good' in line 3 as 'rating', which is no number"),
        (
            HEAD + MANY,
            {"user_inter_num_interval": "[99,inf)"},
            r"leave nothing of 96 rows of 12 users \(with at most 8 rows\) and 20 items .*: user_inter_num_interval = ",
        ),
        (HEAD + b"u\ti\t3\t9\t\n" + MANY, {}, "has 5 fields in line 2"),
    ],
)
def test_a_run_says_what_is_wrong(
    tiny_settings: Settings, tmp_path: Path, content: bytes, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=rf"The data set 'odd' cannot be (read|used): .*{words}"):
        a_run(tiny_settings, tmp_path, content, **more)


def test_a_byte_order_mark_changes_nothing(tiny_settings: Settings, tmp_path: Path) -> None:
    marked = a_run(tiny_settings, tmp_path, b"\xef\xbb\xbf" + HEAD + MANY)
    assert marked.fingerprint == a_run(tiny_settings, tmp_path, HEAD + MANY).fingerprint
    assert marked.dataset.config["encoding"] in (None, "utf-8"), "the settings stay as they came"


def test_users_without_training_items(tiny_settings: Settings, tmp_path: Path) -> None:
    """A split by time alone leaves some users with held-out items only: they count in the metrics, as in RecBole."""
    late = b"late\ti0\t3\t900\nlate\ti1\t3\t901\n"
    more = {"eval_args": {"order": "TO", "split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "none", "mode": "full"}}
    data = a_run(tiny_settings, tmp_path, HEAD + MANY + late, **ALL, **more)
    assert (data.history.lengths[1:] == 0).any()


@pytest.mark.parametrize("separator", ["::", "||", ", ", ";;"])
def test_a_separator_of_several_signs_is_no_yaml(tiny_settings: Settings, separator: str) -> None:
    given = tiny_settings("BPR")
    assert (
        DistillConfig("BPR", "tiny", config_dict={**given, "field_separator": separator})["field_separator"]
        == separator
    )
    typed = DistillConfig("BPR", "tiny", config_dict=given, command_line=[f"--field_separator={separator}"])
    assert typed["field_separator"] == separator


def test_labels_are_part_of_what_a_model_has_seen(tiny_settings: Settings, tmp_path: Path) -> None:
    """Other ratings, other labels, another teacher; ratings without a threshold change nothing."""
    given = tiny_settings("NeuMF", load_col={"inter": ["user_id", "item_id", "rating"]})
    text = (Path(given["data_path"]) / "tiny" / "tiny.inter").read_text(encoding="utf-8")
    (tmp_path / "tiny").mkdir()
    other = text.replace("\t5\t", "\t2\t")
    (tmp_path / "tiny" / "tiny.inter").write_text(other, encoding="utf-8")

    def fingerprint(**more: Any) -> Any:
        return prepare_data(DistillConfig("NeuMF", "tiny", config_dict={**given, **more})).fingerprint

    labelled = {"threshold": {"rating": 4}, "train_neg_sample_args": None}
    assert fingerprint() == fingerprint(data_path=str(tmp_path))
    assert fingerprint(**labelled) != fingerprint(**labelled, data_path=str(tmp_path))
