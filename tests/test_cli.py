"""The command line: what it reads, and every mistake a sentence with exit code 2 and nothing overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import recbole
import torch
from synthetic_records import synthetic, written

from recbole_derrd import __version__
from recbole_derrd.cli import main
from recbole_derrd.command_line.arguments import read_arguments
from recbole_derrd.command_line.commands import COMMANDS, OPTIONS
from recbole_derrd.config.known_keys import recbole_keys
from recbole_derrd.config.options import RunOptions
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.config.options.recbole_keys import SWITCHES
from recbole_derrd.config.settings import read_settings
from recbole_derrd.errors import DistillError

ROOT = Path(__file__).resolve().parent.parent


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "log" not in path.parts}


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run, expect exit code 2 and at most a few plain lines; return what was said."""
    before = tree(Path.cwd())
    assert main(["run", *arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    message = next(line for line in reversed(said) if line.startswith("recbole-derrd: "))
    assert "Traceback" not in "\n".join(said) and len(message) < 700
    after = tree(Path.cwd())
    assert all(after.get(path) == content for path, content in before.items()), "an earlier result was overwritten"
    return message


@pytest.fixture
def tiny(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a run that works, in a working directory of its own with an earlier result."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "earlier.pth").write_text("earlier")
    return [
        "--model=BPR", "--dataset=tiny", f"--data_path={tiny_data}", "--distillers=[rrd]", "--epochs=1", "--rrd_k=4",
        "--rrd_l=4", "--rrd_top_n=8", "--show_progress=False", "--eval_batch_size=4000", "--state=WARNING",
    ]  # fmt: skip


def test_the_run_that_the_mistakes_are_made_from_works(tiny: list[str]) -> None:
    assert main(["run", *tiny]) == 0
    assert len(list(Path("records").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--distillers=[rrdd]"], "Did you mean 'rrd'"),
        (["--rrd_wieght=1"], "Did you mean 'rrd_weight'"),
        (["--rrd_weight=-1"], "at least 0"),
        (["--rrd_k=many"], "must be int"),
        (["--model=BRP"], "Did you mean 'BPR'"),
        (["--model=SASRec"], "not a general recommender"),
        (["--model=EASE"], "cannot be a student"),
        (["--teacher_model=EASE", "--distillers=[de]"], "the teacher EASE has none"),
        (["--config_files=nowhere.yaml"], "nowhere.yaml"),
        (["--dataset=nowhere"], "nowhere"),
        (["--teacher_checkpoint=nowhere.pth"], "no checkpoint file"),
        (["--teacher_checkpoint=saved/earlier.pth"], "not a RecBole checkpoint"),
        (["--rrd_k=30", "--rrd_top_n=40"], "more than the catalogue allows"),
        (["--user_inter_num_interval=[1000,inf)"], "cannot be used"),
        (["--learning_rate=1e30", "--epochs=5"], "'base' is not a finite number"),
        (["--teacher={seed: 1}"], "training interactions are others"),
        (["--teacher={dataset: ml-100k}"], "dataset"),
        (["--nproc=2", "--worker=1"], "take out worker"),
        (["--epochs"], "--key=value"),
        (["--teacher={embedding_size: [}"], "not valid YAML"),
        (["--record_dir=saved/earlier.pth"], "Cannot write to record_dir"),
        (["--cache_dir=saved/earlier.pth"], "Cannot write to cache_dir"),
        (["--distillers=[de]", "--de_hint=foo"], "no hint layer 'foo'"),
        (["--dataloaders_save_path=saved/loaders.pth"], "Take out dataloaders_save_path"),
        (["--dataset=data/shop"], "Write dataset: shop, and in data_path the folder in which its folder lies"),
        (["--train_neg_sample_args={dynamic: true}"], "set candidate_num"),
        (["--eval_args={split: {RS: [0, 0, 0]}}"], "leaves the training split empty"),
        (["--model=LINE", "--distillers=[]", "--second_order_loss_weight=[1]"], "RecBole cannot train LINE"),
        (["--split_seed=1", "--save_dataloaders=True"], "know nothing of split_seed"),
        (["--eval_args={mode: labeled}", "--metrics=[AUC]", "--valid_metric=AUC"], "ranks by labels"),
        (
            [
                "--eval_args={mode: labeled, group_by: null}",
                "--metrics=[AUC]",
                "--valid_metric=AUC",
                "--load_col={inter: [user_id, item_id, rating]}",
                "--threshold={rating: 9}",
            ],
            "AUC on the validation split is not a number",
        ),
        (["--ITEM_ID_FIELD=thing"], "has no column 'thing', only user_id, item_id"),
        (["--field_separator=,"], "by default it is a tab"),
        (["--topk=[1000]", "--valid_metric=NDCG@1000"], "has only 40 items"),
        (["--teacher_embedding_size=64"], "--teacher='{embedding_size: ...}'"),
        (["--log_wandb=True"], "pip install wandb"),
        (["--topk=[0]"], "from 1 on"),
        (["--embedding_size=big"], "'embedding_size' must be int"),
        (["--de_hint=output"], "Not among the distillers: de. So --de_hint has no effect: add de to distillers"),
        (
            ["--distillers=[de]", "--rrd_k=4", "--cd_preset=citeulike-bpr-kds"],
            "Not among the distillers: rrd and cd. So --rrd_k and --cd_preset have no effect: add rrd and cd to",
        ),
        (["--distillers=", "--rrd_k=4"], "Not among the distillers: rrd. So --rrd_k has"),
        (["--teacher_refine={rd_k: 5}"], "Not among the distillers in 'teacher_refine': rd. So rd_k has no"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_mistake_is_a_sentence(
    tiny: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    changed = {argument.split("=")[0] for argument in arguments}
    kept = [argument for argument in tiny if argument.split("=")[0] not in changed]
    if "--distillers" in changed:
        # Typed options of another method are a mistake of their own.
        kept = [argument for argument in kept if not argument.startswith("--rrd_")]
    assert words in fails(capsys, *kept, *arguments)


def test_a_hostile_teacher_is_refused(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch ran",)

    torch.save({"state_dict": {}, "config": Bomb()}, "hostile.pth")
    assert "could run code" in fails(capsys, *tiny, "--teacher_checkpoint=hostile.pth")
    assert not Path("ran").exists()


def test_a_truncated_teacher_is_refused(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *tiny]) == 0
    whole = next(Path("saved").glob("cache/*/model.pth"))
    Path("part.pth").write_bytes(whole.read_bytes()[:-400])
    assert "part.pth" in fails(capsys, *tiny, "--teacher_checkpoint=part.pth")


def test_a_user_who_has_seen_everything_is_named(
    tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = ["user_id:token\titem_id:token"] + [f"u0\ti{item}" for item in range(12)]
    lines += [f"u{user}\ti{item}" for user in range(1, 9) for item in range(user, user + 4)]
    (tmp_path / "data" / "full").mkdir(parents=True)
    (tmp_path / "data" / "full" / "full.inter").write_text("\n".join(lines) + "\n")
    for part, first in (("train", 12), ("valid", 4), ("test", 4)):
        (tmp_path / "data" / "full" / f"full.{part}.inter").write_text(
            "\n".join([lines[0], *lines[1 : 1 + first], *lines[13:]])
        )
    kept = [argument for argument in tiny if not argument.startswith(("--dataset", "--data_path"))]
    message = fails(
        capsys, *kept, "--dataset=full", f"--data_path={tmp_path / 'data'}", "--benchmark_filename=[train, valid, test]"
    )
    assert "interacted with all items" in message


def test_unknown_commands_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dcotor"]) == 2 and "Did you mean 'doctor'" in capsys.readouterr().err
    assert main(["--version"]) == 0 and capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("command", "arguments", "names", "options", "settings"),
    [
        ("run", ["-m", "BPR", "-d=tiny"], [], {"model": ["BPR"], "dataset": ["tiny"]}, []),
        ("run", ["--model", "BPR", "--dataset=x y"], [], {"model": ["BPR"], "dataset": ["x y"]}, []),
        ("run", ["--config_files=a b", "--config", "c"], [], {"config_files": ["a b", "c"]}, []),
        ("run", ["--teacher={epochs: 5}", "--x=a=b", "--y="], [], {}, ["--teacher={epochs: 5}", "--x=a=b", "--y="]),
        ("run", ["--mod=BPR", "--models=BPR"], [], {"model": None}, ["--mod=BPR", "--models=BPR"]),
        ("run", ["--field_separator=\t", "--é=ü "], [], {}, ["--field_separator=\t", "--é=ü "]),
        ("compress", ["--compress_bits=3"], [], {"model": None}, ["--compress_bits=3"]),
        ("benchmark", ["--jobs", "2", "a.yaml", "--only=[a, b]"], ["a.yaml"], {}, ["--jobs=2", "--only=[a, b]"]),
        ("benchmark", ["my file.yaml", "--teacher={seed: 1}"], ["my file.yaml"], {}, ["--teacher={seed: 1}"]),
        ("report", ["a", "--format", "tex", "b c"], ["a", "b c"], {"format": "tex"}, []),
        ("report", ["--baseline=-x = y", "a"], ["a"], {"baseline": "-x = y", "split": None}, []),
        ("report", ["a", "--out=", "--metric=x", "--metric=y"], ["a"], {"out": "", "metric": "y"}, []),
        ("export", ["a.pth", "--out", "b", "--force"], ["a.pth"], {"out": "b", "force": True, "keep_seen": False}, []),
        ("export", ["--data_path", "d", "a.pth", "--seed=1"], ["a.pth"], {"bits": None}, ["--data_path=d", "--seed=1"]),
        ("recommend", ["e", "--users=a,b", "--k=3"], ["e"], {"users": "a,b", "k": "3"}, []),
        ("recommend", ["e", "--users=a", "--data_path", "d"], ["e"], {"model": None}, ["--data_path=d"]),
        ("evaluate", ["a", "--split=test", "b", "--topk=[1, 2]"], ["a", "b"], {"split": "test"}, ["--topk=[1, 2]"]),
        ("export", ["a.pth", "a.training.pth", "--out=b"], ["a.pth"], {"out": "b"}, []),
        ("evaluate", ["a.training.pth"], ["a.training.pth"], {}, []),
        ("shrink", ["a.pth", "--bytes=9", "--seed=1"], ["a.pth"], {"bytes": "9", "size": None}, ["--seed=1"]),
        ("run", ["--resume", "--verbose", "--de_k=1"], [], {}, ["--resume=True", "--verbose=True", "--de_k=1"]),
        ("run", ["--listwise_observed", "-m", "BPR"], [], {"model": ["BPR"]}, ["--listwise_observed=True"]),
        ("compress", ["--compress_users", "--save_dataset"], [], {}, ["--compress_users=True", "--save_dataset=True"]),
        ("benchmark", ["--dry", "a.yaml"], ["a.yaml"], {}, ["--dry=True"]),
        ("benchmark", ["a.yaml", "--dry", "False", "--resume"], ["a.yaml"], {}, ["--dry=False", "--resume=True"]),
        ("frontier", ["a.yaml", "--dry", "--plot=x.svg"], ["a.yaml"], {"plot": "x.svg"}, ["--dry=True"]),
        ("shrink", ["--teacher_refine", "a.pth"], ["a.pth"], {}, ["--teacher_refine=True"]),
        ("shrink", ["a.pth", "--teacher_refine", "{epochs: 1}"], ["a.pth"], {}, ["--teacher_refine={epochs: 1}"]),
        ("help", [], [], {}, []),
    ],
    ids=str,
)
def test_what_is_read(
    command: str, arguments: list[str], names: list[str], options: dict[str, Any], settings: list[str]
) -> None:
    given = read_arguments(command, arguments)
    assert given.names == names and given.settings == settings
    assert {key: given.options[key] for key in options} == options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "x"], "Cannot read the argument 'x'. Options are given as --key=value. See --help."),
        (["--epochs", "5"], "Write --epochs=5."),
        (["-epochs=5"], "Write --epochs=5."),
        (["--epochs"], "See --help."),
        (["--resume", "False"], "Write --resume=False."),
        (["--compress_rotation"], "Options are given as --key=value."),
        (["frontier", "a.yaml", "--plott=x.svg"], "Unknown option '--plott' of frontier. Did you mean '--plot'?"),
        (["frontier", "a.yaml", "--kind=[pq]"], "Did you mean '--kinds'?"),
        (["benchmark", "a.yaml", "--job", "2"], "Unknown option '--job' of benchmark. Did you mean '--jobs'?"),
        (["benchmark", "a.yaml", "--dryy"], "--dryy needs a value, e.g. --dryy=VALUE. Did you mean '--dry'?"),
        (["benchmark", "a.yaml", "--jobs"], "--jobs needs a value, e.g. --jobs=VALUE.\n"),
        (["shrink", "a.pth", "--byte=5"], "Unknown option '--byte' of shrink. Did you mean '--bytes'?"),
        (["evaluate", "a.pth", "--splits=test"], "Unknown option '--splits' of evaluate. Did you mean '--split'?"),
        (["-m"], "-m/--model needs a value, e.g. --model=NAME."),
        (["-d", "--epochs=1"], "-d/--dataset needs a value"),
        (["-model=BPR"], "'-model=BPR'. Options are given as --key=value. Did you mean '--model'?"),
        (["-mBPR"], "Cannot read the argument '-mBPR'"),
        (["--"], "Cannot read the argument '--'"),
        (["-"], "Cannot read the argument '-'"),
        (["--help=1"], "-h/--help takes no value"),
        (["--config_file=a.yaml"], "Did you mean '--config_files'?"),
        (["--conf=a.yaml"], "Did you mean '--config_files'?"),
        (["--confg_files", "a.yaml"], "Did you mean '--config_files'?"),
        (["--config_files", "a.yaml", "b.yaml"], "--config_files='A.yaml B.yaml'"),
        (["-m", "BPR", "\N{EN DASH}epochs=5"], "It begins with '\N{EN DASH}' (U+2013)"),
        (["\N{MINUS SIGN}m"], "(U+2212); options begin with '--'"),
        (["\x1b[2J"], "Unknown command '\\x1b[2J'"),
        (["\udcff"], "Unknown command '\\udcff'"),
        (
            [""],
            "Unknown command ''. Known are: benchmark, compress, convert, doctor, evaluate, export, frontier, "
            "help, recommend, report, run, shrink.",
        ),
        (["Report"], "Did you mean 'report'?"),
        (["rep"], "Unknown command 'rep'. Did you mean 'report'?"),
        (["rrd"], "'rrd' is a method: recbole-derrd help rrd shows it"),
        (["report", "a", "--form=md"], "Unknown option '--form' of report. Did you mean 'format'?"),
        (["report", "a", "--formt", "md"], "Unknown option '--formt' of report. Did you mean 'format'?"),
        (["report", "a", "-f"], "Unknown option '--f' of report. Known are: baseline, format, "),
        (["report", "a", "--rrd_k=3"], "Unknown option '--rrd_k' of report"),
        (["report", "a", "--out"], "--out needs a value, e.g. --out=VALUE."),
        (["report", "--split", "test"], "'report' needs a name: recbole-derrd report records/"),
        (["benchmark", "--jobs", "2"], "'benchmark' needs a name"),
        (["doctor", "x"], "'doctor' takes no arguments, but is given 'x'."),
        (["doctor", "--x=1"], "Unknown option '--x' of doctor. It has none."),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_read(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out and words in err and err.startswith("recbole-derrd: ") and len(err.splitlines()) == 1


def test_no_setting_of_a_run_is_taken_for_a_misspelt_option() -> None:
    keys = sorted({*recbole_keys(), *RunOptions.keys(), *CompressOptions.keys()} - {"config_file", "k"})
    for command in (name for name, one in COMMANDS.items() if one.names and one.settings):
        own = {spelling for spellings, *_ in OPTIONS.get(command, ()) for spelling in spellings}
        settings = [f"--{key}=1" for key in keys if f"--{key}" not in own]
        assert read_arguments(command, ["a.pth", *settings]).settings == settings


def test_the_switches_of_recbole_are_those_of_its_default_files() -> None:
    folder = Path(recbole.__file__).parent / "properties"
    files = [folder / name for name in ("overall.yaml", "dataset/sample.yaml")]
    default = {key: value for file in files for key, value in read_settings(file).items()}
    assert {key for key, value in default.items() if isinstance(value, bool)} == SWITCHES


@pytest.mark.parametrize("command", ["run", "compress"])
def test_without_a_data_set_it_is_recboles_own_and_said(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def experiment(**arguments: Any) -> dict[str, Any]:
        given.append(arguments)
        raise DistillError("enough")

    monkeypatch.setattr("recbole_derrd.quick_start.run_recbole_derrd", experiment)
    monkeypatch.setattr("recbole_derrd.experiment.compress.run_compressed", experiment)
    named = tmp_path / "named.yaml"
    named.write_text("dataset: tiny\n", encoding="utf-8")
    assert main([command, "--model=LightGCN"]) == 2
    assert main([command, "--model=LightGCN", "--dataset=tiny"]) == 2
    assert main([command, "--model=LightGCN", f"--config_files={named}"]) == 2
    assert [one["command_line"] for one in given] == [
        ["--model=LightGCN", "--dataset=ml-100k"], ["--model=LightGCN", "--dataset=tiny"], ["--model=LightGCN"]
    ]  # fmt: skip
    assert [one["notes"] for one in given] == [
        ["No dataset is given, so ml-100k is taken, as RecBole's own script does."], [], []
    ]  # fmt: skip


@pytest.mark.slow
def test_the_script_and_the_module_answer_alike(tmp_path: Path) -> None:
    for command in ([str(ROOT / "run_recbole_derrd.py")], ["-m", "recbole_derrd"]):
        answer = subprocess.run(
            [sys.executable, *command, "--distillers=[rrdd]", "--model=BPR", "--dataset=ml-100k"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert answer.returncode == 2 and answer.stderr.strip().splitlines()[-1].startswith(
            "recbole-derrd: Unknown distiller"
        )


@pytest.mark.skipif(os.name == "nt", reason="pipes are closed otherwise there")
def test_a_reader_who_has_seen_enough_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "recbole_derrd", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


def test_another_broken_pipe_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> int:
        raise BrokenPipeError("a process has died")

    monkeypatch.setattr("recbole_derrd.cli.report", broken)
    with pytest.raises(BrokenPipeError, match="a process has died"):
        main(["report", "records"])


def test_a_terminal_without_the_signs_of_a_report_shows_it(tmp_path: Path) -> None:
    folder = written(tmp_path / "records", synthetic())
    answer = subprocess.run(
        [sys.executable, "-m", "recbole_derrd", "report", str(folder)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert answer.returncode == 0 and "0.4011 ? 0.0010" in answer.stdout


def test_no_stray_file_of_the_working_directory_is_imported(tmp_path: Path) -> None:
    for name in ("yaml", "difflib"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'a').close()")
    command = [sys.executable, "-m", "recbole_derrd", "--version"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["benchmark", "frontier", "shrink"])
def test_what_goes_on_by_itself_says_so_when_it_is_stopped(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"recbole_derrd.cli.{command}", stopped)
    assert main([command, "file"]) == 130
    assert "The same command goes on where it was." in capsys.readouterr().err
