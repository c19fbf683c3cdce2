"""What help shows of commands, options and methods, with no wait for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_derrd import __version__
from recbole_derrd.cli import main
from recbole_derrd.command_line.commands import COMMANDS
from recbole_derrd.config.options import RunOptions
from recbole_derrd.config.options.benchmark import BenchmarkOptions
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.registry import METHODS, method_class

ROOT = Path(__file__).resolve().parent.parent


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what help prints, its line breaks made spaces."""
    assert main(list(arguments)) == 0
    out, err = capsys.readouterr()
    assert not err and out.endswith("\n")
    return " ".join(out.split())


def test_plain_help_lists_commands_and_methods(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, "--help")
    for name, command in COMMANDS.items():
        assert f"{name} {command.summary}" in page
    for name, method in METHODS.items():
        assert f" {name} {method.summary}" in page
    assert "'recbole-derrd help options'" in page
    options = shown(capsys, "help", "options")
    assert all(f"--{key}= " in options and meaning in options for key, *_, meaning in RunOptions.describe())
    assert page == shown(capsys, "help") == shown(capsys, "-h") == shown(capsys, "--model=BPR", "--help")


#: What the help of each command must hold.
OF_COMMANDS = {
    "run": ["--config_files", "-m", "--model NAME", "-d", "--dataset NAME", "--teacher_checkpoint= ", *METHODS],
    "compress": ["--config_files", *(f"--{key}= " for key in CompressOptions.keys())],  # noqa: SIM118
    "benchmark": ["FILE", *(f"--{key}= " for key in BenchmarkOptions.keys())],  # noqa: SIM118
    "report": ["FOLDER", *(f"--{name}" for name in ("format", "out", "plots", "baseline", "metric", "split"))],
    "convert": ["TABLE", "--user COL", "--drop-missing", "gzip"],
    "export": [
        "CHECKPOINT",
        *(f"--{name}" for name in ("out", "format", "bits", "top", "index", "keep-seen", "force")),
    ],
    "evaluate": ["CHECKPOINT", *(f"--{name}" for name in ("split", "records", "trusted", "model"))],
    "frontier": ["FILE", "--plot", "--also", "bytes", "kinds", "ways", "seeds"],
    "shrink": ["CHECKPOINT", *(f"--{name}" for name in ("bytes", "size", "times", "out", "force", "without-plain"))],
    "recommend": ["EXPORT|CHECKPOINT", *(f"--{name}" for name in ("users", "k", "out", "keep-seen", "model"))],
    "doctor": ["tested ranges"],
    "help": ["package.module.Class", *METHODS],
}


def test_every_command_has_its_case() -> None:
    assert OF_COMMANDS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, command, "--help")
    assert page.startswith(f"usage: recbole-derrd {'[run]' if command == 'run' else command}")
    assert COMMANDS[command].summary[1:] in page and not [word for word in OF_COMMANDS[command] if word not in page]
    assert page == shown(capsys, "help", command) == shown(capsys, command, "x", "--unknown=1", "-h")
    assert len(page.splitlines()) < 60 or command in ("run", "compress", "benchmark", "help")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_a_screen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) < 60


@pytest.mark.parametrize("columns", ["20", "80", "400"])
def test_help_fits_the_terminal(columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["help", "report", "rrd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    assert columns != "80" or [line for line in lines if len(line) > 70]


@pytest.mark.parametrize("name", METHODS)
def test_help_shows_a_method(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    method = method_class(name)
    page = shown(capsys, "help", name)
    assert page.startswith(f"{name}: {METHODS[name].summary}") and f"--distillers=[{name}]" in page
    assert method.citation and method.citation in page
    for key, kind, default, limits, meaning in method.options_class.describe():
        assert f"--{key}= ({kind}" in page and meaning in page and limits in page
        assert f"default {'none' if default is None else default})" in page
    for student in method.student_defaults:
        for key, value in method.defaults_for(student).items():
            assert f"--{key}={value}" in page.partition(f"defaults for a {student} student:")[2]
    presets = page.partition(f"presets, for --{name}_preset=NAME:")[2]
    assert all(f"{preset}: --" in presets for preset in method.options_class.presets())
    for key, value in (pair for given in method.options_class.presets().values() for pair in given.items()):
        assert f"--{key}={value}" in presets


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["de-rrd"], ["de", "rrd"]),
        (["DE-RRD"], ["de", "rrd"]),
        (["mkd"], ["nkd", "cpd", "sld"]),
        (["HetComp"], ["hetcomp"]),
        (["IR-RRD"], ["ir_rrd"]),
        (["de+cd"], ["de", "cd"]),
        (["rd", "cd"], ["rd", "cd"]),
    ],
    ids=str,
)
def test_help_knows_every_spelling(written: list[str], names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "help", *written) == " ".join(shown(capsys, "help", name) for name in names)


OWN = '''
import dataclasses
from typing import ClassVar

from recbole_derrd import Distiller
from recbole_derrd.config.options import Options, option


@dataclasses.dataclass(frozen=True)
class MineOptions(Options):
    prefix: ClassVar[str] = "mine_"
    weight: float = option(0.25, "Weight of my term, 100 % mine.", low=0)


class Mine(Distiller):
    """What I have tried:
    a term of mine.

    More about it.
    """

    name = "mine"
    options_class = MineOptions


class Bare(Distiller):
    options_class = MineOptions


class NotOne:
    pass
'''


def test_help_shows_a_method_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_help.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    page = shown(capsys, "help", "own_help.Mine")
    assert page.startswith("own_help.Mine: What I have tried: a term of mine. use: --distillers=[own_help.Mine]")
    assert "--mine_weight= (float, >= 0; default 0.25) Weight of my term, 100 % mine." in page and "cite" not in page
    assert shown(capsys, "help", "own_help.Bare").startswith("own_help.Bare use:")
    for name, words in (("NotOne", "no Distiller"), ("Missing", "Cannot load the distiller 'own_help.Missing'")):
        assert main(["help", f"own_help.{name}"]) == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rdd"], "no command or method 'rdd'. Did you mean 'rd'?"),
        (["hetcmop"], "Did you mean 'hetcomp'?"),
        (["benchmrk"], "Did you mean 'benchmark'?"),
        (["zzz"], "Known are: benchmark, cd, "),
        ([""], "no command or method ''"),
        (["rrd", "../x"], "no command or method '../x'"),
        (["..x"], "no command or method '..x'"),
        (["a..b"], "no command or method 'a..b'"),
        (["os.path"], "'path' is no Distiller"),
        (["no_module_of_this.Name"], "Cannot load the distiller 'no_module_of_this.Name'"),
        (["\x1b[31mrrd"], "'\\x1b[31mrrd'"),
        (["--all"], "Unknown option '--all' of help"),
    ],
    ids=str,
)
def test_help_of_unknown_names(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and words in err and "Traceback" not in err


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
                assert "rrd " in answer.stdout and "--version" in answer.stdout
    # A second, or on a slow machine so many times what Python itself takes.
    assert min(seconds[code]) < max(1, 20 * min(seconds["pass"]))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_does_not_wait_for_torch(command: str) -> None:
    code = (
        "import sys\n"
        "from recbole_derrd.cli import main\n"
        f"assert main([{command!r}, '--help']) == 0 and main(['help', {command!r}]) == 0\n"
        "assert not {'torch', 'numpy', 'recbole'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def test_the_version_is_shown_wherever_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["report", "x", "--version"], ["-m", "BPR", "--version"]):
        assert shown(capsys, *arguments) == __version__
