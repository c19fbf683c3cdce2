"""Tables of one's own become RecBole's atomic files: what is written, what is told, and what is refused."""

from __future__ import annotations

import gzip
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from recbole.data import create_dataset

from recbole_derrd.cli import main
from recbole_derrd.config.distill_config import DistillConfig

NAMED = ["--user=user", "--item=item"]
TABLE = (
    "when,user,item,stars\n2024-05-01,007,a,4\n"
    '2024-05-01T02:00:00+02:00,b,"x ""y""",.5\n1969-12-31 23:59:59.7,b,a,3e0\n'
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def converted(capsys: pytest.CaptureFixture[str], content: str | bytes, *arguments: str) -> tuple[str, list[str]]:
    """Convert a table; return what was said, and the lines that were written."""
    Path("t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["convert", "t.csv", "--out=dataset/shop", *arguments]) == 0
    return capsys.readouterr().out, Path("dataset/shop/shop.inter").read_text(encoding="utf-8").splitlines()


def refused(capsys: pytest.CaptureFixture[str], content: str | bytes, *arguments: str) -> str:
    """Convert a table that is refused; return the sentence. Nothing is written."""
    Path("t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["convert", "t.csv", "--out=dataset/shop", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("recbole-derrd: ") and len(err.splitlines()) == 1 and len(err) < 500
    assert not Path("dataset").exists()
    return err


def test_types_times_and_what_was_written_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    said, lines = converted(capsys, TABLE, *NAMED, "--rating=stars", "--time=when")
    assert lines == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "007\ta\t4\t1714521600",
        'b\t"x ""y"""\t.5\t1714521600',
        "b\ta\t3e0\t-1",
    ]
    assert said.splitlines()[0] == (
        f"{Path('dataset/shop/shop.inter')}: 3 rows, 2 users, 2 items "
        "(user_id:token, item_id:token, rating:float, timestamp:float)"
    )
    assert len(said.splitlines()) == 2


def test_recbole_reads_what_is_written_and_the_next_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"u{user}|i{(user + item) % 12}\n" for user in range(12) for item in range(9))
    said, _ = converted(capsys, f'user|item\n"q""uote"|i0\n{rows}', *NAMED)
    config = DistillConfig("BPR", "shop", config_dict={"data_path": "dataset", "state": "WARNING"})
    data = create_dataset(config)
    assert (data.user_num, data.item_num, len(data)) == (14, 13, 109)
    assert data.token2id("user_id", 'q"uote') > 0
    command = shlex.split(said.splitlines()[-1].removeprefix("Next: "))
    assert command[0] == "recbole-derrd"
    quick = ["--epochs=1", "--rrd_top_n=2", "--rrd_k=1", "--rrd_l=1", "--state=WARNING", "--show_progress=False"]
    assert main([*command[1:], *quick, "--topk=[5]", "--valid_metric=NDCG@5"]) == 0


@pytest.mark.parametrize(
    ("content", "arguments", "rows"),
    [
        ("1\t2\n3\t4\n", ["--user=2", "--item=1"], ["2\t1", "4\t3"]),
        ("a::b::5\nc::d::6\n", ["--user=1", "--item=2", "--sep=::"], ["a\tb", "c\td"]),
        ("user;item\n\n a;b,c\n", NAMED, [" a\tb,c"]),
        ("user\titem\r\na\tb\r\n", [*NAMED, "--sep=\\t"], ["a\tb"]),
        (b"\xef\xbb\xbfuser,item\na,b\n", NAMED, ["a\tb"]),
        ("user,item\na,b\n".encode("utf-16"), NAMED, ["a\tb"]),
        ("user,item\né,b\n".encode("latin-1"), [*NAMED, "--encoding=latin-1"], ["é\tb"]),
        (gzip.compress(b"user,item\na,b\n", mtime=0), NAMED, ["a\tb"]),
        ('user,item,text\na,b,"two\nlines, and a comma"\n', NAMED, ["a\tb"]),
        ("user,item\na,b\nc,d\na,b\n", NAMED, ["a\tb", "c\td", "a\tb"]),
        ("user,item\na,b\nc,d\na,b\n", [*NAMED, "--drop-duplicates"], ["a\tb", "c\td"]),
        ("user,item,r\na,b,\nNA,d,1\na,c,nan\nx,y,2\n", [*NAMED, "--rating=r", "--drop-missing"], ["x\ty\t2"]),
    ],
    ids=str,
)
def test_forms_of_tables(
    capsys: pytest.CaptureFixture[str], content: str | bytes, arguments: list[str], rows: list[str]
) -> None:
    assert converted(capsys, content, *arguments)[1][1:] == rows


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        ("user,item\na,b\na,b\n", NAMED, "1 row with a user and item of an earlier one: kept"),
        ("user,item\na,b\na,b\n", [*NAMED, "--drop-duplicates"], "an earlier one: dropped"),
        ("user,item\na,\n,b\na,b\n", [*NAMED, "--drop-missing"], "2 rows left out: 1 without 'item', 1 without 'user'"),
        ("a,b\n", ["--user=1", "--item=2"], "so the first row is data: a b"),
        ("user,item\na,b\n", NAMED, "Next: recbole-derrd --model=BPR --dataset=shop "),
    ],
    ids=str,
)
def test_what_is_told(capsys: pytest.CaptureFixture[str], content: str, arguments: list[str], words: str) -> None:
    assert words in converted(capsys, content, *arguments)[0]


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        ("user,item\na,b\n", ["--item=item"], "needs --user=COL"),
        ("user,item\na,b\n", ["--user=usr", "--item=item"], "no such column. Did you mean 'user'?"),
        ("user,item\na,b\n", ["--user=1", "--item=item"], "all columns by name"),
        ("user,item\na,b\n", ["--user=1", "--item=3"], "has the columns 1 to 2"),
        ("user,item\na,b\n", ["--user=user", "--item=user"], "are the same column"),
        ("user,user\na,b\n", ["--user=user", "--item=item"], "2 columns of that name"),
        ("user::item\na::b\n", NAMED, "Say by --sep"),
        ("user,item\na,b\n", [*NAMED, '--sep="'], "--sep is what stands between two columns"),
        ("user,item\na,b\n", [*NAMED, "--encoding=utf-9"], "Did you mean 'utf-8'?"),
        ("", NAMED, "is empty"),
        ("user,item\n", NAMED, "has no row to write"),
        ("user,item\na,b\na,b,c\n", NAMED, "has 3 columns in line 3, and 2 in its first"),
        ("user,item\na\n", NAMED, "has 1 columns in line 2"),
        ("user,item\na,b\n,c\nNULL,c\n", NAMED, "2 without 'user' (lines 3, 4). Mend them"),
        ('user,item\na,"b\tc"\n', NAMED, "in 'item' in line 2, 'b\\tc'"),
        ('user,item\na,"b\nc"\n', NAMED, "in 'item' in line 3, 'b\\nc'"),
        ("user,item,r\na,b,4\nc,d,good\n", [*NAMED, "--rating=r"], "has 'good' in 'r' in line 3, which is no number"),
        ("user,item,r\na,b,inf\n", [*NAMED, "--rating=r"], "is no number"),
        ("a,b,r\nc,d,4\n", ["--user=1", "--item=2", "--rating=3"], "give them by name instead"),
        ("user,item,t\na,b,01/05/2024\n", [*NAMED, "--time=t"], "no date such as 2024-05-01"),
        ("user,item,t\na,b,2024-13-01\n", [*NAMED, "--time=t"], "no date such as"),
        ("user,item,t\na,b,5\nc,d,2024-01-01\n", [*NAMED, "--time=t"], "is a date, unlike those above"),
        (b"user,item\n\xff,b\n", NAMED, "e.g. --encoding=latin-1"),
        (gzip.compress(b"user,item\na,b\n" * 99, mtime=0)[:-20], NAMED, "damaged gzip"),
        (b"PK\x03\x04", NAMED, "a zip archive"),
        ('user,item\na,"b\n' + "c,d\n" * 40_000, NAMED, "A quote that is not closed"),
        ("user,item\na,b\n", [*NAMED, "--drop-missing=yes"], "takes no value"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_a_sentence_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], content: str | bytes, arguments: list[str], words: str
) -> None:
    assert words in refused(capsys, content, *arguments)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("dataset/ml-100k", "RecBole reads its own data"),
        ("dataset/shop.inter", "--out=dataset"),
        ("..", "must end with the name"),
        ("t.csv", "is a file"),
        ("t.csv/shop", "Cannot write"),
    ],
)
def test_places_that_are_refused(capsys: pytest.CaptureFixture[str], out: str, words: str) -> None:
    Path("t.csv").write_text("user,item\na,b\n", encoding="utf-8")
    assert main(["convert", "t.csv", *NAMED, f"--out={out}"]) == 2
    assert words in capsys.readouterr().err and [path.name for path in Path().rglob("*")] == ["t.csv"]


def test_a_file_that_is_there_is_replaced_by_force_alone(capsys: pytest.CaptureFixture[str]) -> None:
    _, first = converted(capsys, "user,item\na,b\n", *NAMED)
    Path("t.csv").write_text("user,item\nc,d\n", encoding="utf-8")
    again = ["convert", "t.csv", "--out=dataset/shop", *NAMED]
    assert main(again) == 2 and "--force" in capsys.readouterr().err
    assert Path("dataset/shop/shop.inter").read_text(encoding="utf-8").splitlines() == first
    assert main([*again, "--force"]) == 0
    assert "c\td" in Path("dataset/shop/shop.inter").read_text(encoding="utf-8")
    assert main(["convert", "none.csv", "--out=dataset/other", *NAMED]) == 2
    assert "'none.csv' cannot be opened" in capsys.readouterr().err


def test_another_folder_is_named_in_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text("user,item\na,b\n", encoding="utf-8")
    assert main(["convert", "t.csv", *NAMED, "--out=my data/shop"]) == 0
    assert "'--data_path=my data'" in capsys.readouterr().out


def test_it_does_not_wait_for_torch() -> None:
    Path("t.csv").write_text("user,item\na,b\n", encoding="utf-8")
    code = (
        "import sys\n"
        "from recbole_derrd.cli import main\n"
        "assert main(['convert', 't.csv', '--user=user', '--item=item', '--out=d/shop']) == 0\n"
        "assert not {'torch', 'pandas', 'recbole'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
