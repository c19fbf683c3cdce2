"""The command line: help without torch, and every mistake a sentence with exit code 2 and nothing overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic_records import synthetic, written

from recbole_derrd import __version__
from recbole_derrd.cli import main
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
        (["--eval_args={split: {RS: [1, 0, 0]}}"], "empty"),
        (["--eval_args={split: {LS: test_only}}"], "empty"),
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
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_mistake_is_a_sentence(
    tiny: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    changed = {argument.split("=")[0] for argument in arguments}
    kept = [argument for argument in tiny if argument.split("=")[0] not in changed]
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


def test_help_answers_without_torch_in_under_a_second() -> None:
    code = (
        "import sys\n"
        "from recbole_derrd.cli import main\n"
        "assert main(['--help']) == 0\n"
        "assert not {'torch', 'numpy', 'recbole'} & set(sys.modules)"
    )
    resource = pytest.importorskip("resource")

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return float(usage.ru_utime + usage.ru_stime)

    seconds: dict[str, list[float]] = {code: [], "pass": []}
    for _ in range(3):
        for source, taken in seconds.items():
            started = spent()
            answer = subprocess.run(
                [sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT, check=True
            )
            taken.append(spent() - started)
            if source == code:
                assert "rrd " in answer.stdout and "--teacher_checkpoint" in answer.stdout
    # A second, or on a slow machine so many times what Python itself takes.
    assert min(seconds[code]) < max(1, 20 * min(seconds["pass"]))


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
