"""The doctor's table must agree with setup.py, and each sort of trouble must be named with its remedy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from recbole_derrd import doctor as doctor_module
from recbole_derrd.doctor import OPTIONAL, WITHOUT_REQUIREMENTS, bounds_on, doctor, installed_version, judge

SETUP = Path(__file__).resolve().parent.parent / "setup.py"
PYTHONS = ("3.11.7", "3.13.0")

# One version inside every range, of each Python.
_ANY = {
    "torch": "2.13.0+cpu",
    "recbole": "1.2.1",
    "pandas": "2.3.3",
    "pyyaml": "6.0.3",
    "packaging": "26.3",
    "filelock": "4.2.11",
    "threadpoolctl": "3.8.0",
    "tensorboard": "2.21.0",
}
GOOD = {
    "3.11.7": {
        "python": "3.11.7", "numpy": "1.26.4", "scipy": "1.12.0", "setuptools": "81.0.0", "ray": "2.6.3", **_ANY
    },
    "3.13.0": {
        "python": "3.13.0", "numpy": "2.5.5", "scipy": "1.18.1", "colorama": "0.4.4", "colorlog": "4.7.2",
        "plotly": "6.0.0", "psutil": "7.2.2", "scikit-learn": "1.9.1", "tabulate": "0.10.0", "texttable": "1.7.0",
        "tqdm": "4.68.0", **_ANY,
    },
}  # fmt: skip


def ranges(python: str) -> dict[str, SpecifierSet]:
    """The doctor's ranges on a Python."""
    return {tested.name: SpecifierSet(tested.range) for tested in bounds_on(python)}


def ranges_in_setup(python: str) -> dict[str, SpecifierSet]:
    """REQUIREMENTS and python_requires of setup.py, read as text because running it would start a build."""
    found: dict[str, SpecifierSet] = {}
    for node in ast.walk(ast.parse(SETUP.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REQUIREMENTS":
            for line in ast.literal_eval(node.value):
                requirement = Requirement(line)
                if requirement.marker is None or requirement.marker.evaluate({"python_version": python[:4]}):
                    found[canonicalize_name(requirement.name)] = requirement.specifier
        elif isinstance(node, ast.keyword) and node.arg == "python_requires":
            found["python"] = SpecifierSet(ast.literal_eval(node.value))
    return found


def ranges_in_extras() -> dict[str, SpecifierSet]:
    """The extras of setup.py, but for those of its own tests."""
    ranges: dict[str, SpecifierSet] = {}
    for node in ast.walk(ast.parse(SETUP.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "extras_require" and isinstance(node.value, ast.Dict):
            for lines in node.value.values:
                for line in ast.literal_eval(lines) if isinstance(lines, ast.List) else ():
                    requirement = Requirement(line)
                    ranges[canonicalize_name(requirement.name)] = requirement.specifier
    return ranges


def ranges_in_recbole() -> dict[str, SpecifierSet]:
    """What recbole's own metadata asks for; brackets around old-style ranges are dropped by Requirement."""
    requirements = [Requirement(line) for line in metadata.requires("recbole") or []]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in requirements}


def fake(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], python: str = "3.11.7") -> None:
    """Let the doctor see the good versions with some changed, and a working torch without a GPU."""
    versions: dict[str, str | None] = {**GOOD[python], **changes}
    monkeypatch.setattr(doctor_module, "installed_version", versions.get)
    monkeypatch.setattr(doctor_module, "cuda", lambda: ("CUDA is not available.", True))


@pytest.mark.parametrize("python", PYTHONS)
def test_table_covers_setup_exactly(python: str) -> None:
    in_setup = ranges_in_setup(python)
    assert len(in_setup) > 5
    assert in_setup == {name: ranges(python)[name] for name in in_setup}


def test_rows_beyond_setup_come_from_recbole() -> None:
    beyond = set(ranges("3.11.7")) - set(ranges_in_setup("3.11.7"))
    assert beyond == {"ray", "tensorboard"}
    in_recbole = ranges_in_recbole()
    assert {name: ranges("3.11.7")[name] for name in beyond} == {name: in_recbole[name] for name in beyond}


def test_from_312_on_recboles_requirements_are_ours_without_ray_and_thop() -> None:
    in_setup, in_recbole = ranges_in_setup("3.13.0"), ranges_in_recbole()
    assert set(ranges("3.13.0")) - set(in_setup) == {"recbole"}
    in_recbole = {name: wanted for name, wanted in in_recbole.items() if name != "hyperopt"}
    assert set(in_recbole) - set(in_setup) == {"ray", "thop"}
    bounded = {"torch", "numpy", "scipy", "pandas", "pyyaml"}
    assert {name: in_setup[name] for name in set(in_recbole) & set(in_setup) - bounded} == {
        name: in_recbole[name] for name in set(in_recbole) & set(in_setup) - bounded
    }


def test_extras_are_those_of_setup_and_looked_at_where_they_are_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {extra.name: SpecifierSet(extra.range) for extra in OPTIONAL} == ranges_in_extras()
    fake(monkeypatch, {"hyperopt": "0.3.0"})
    assert doctor() == 1
    shown = capsys.readouterr().out
    assert "exhaustive search" in shown and 'Run: pip install "hyperopt>=0.2.5,<0.2.6"' in shown
    assert "matplotlib" not in shown and "faiss" not in shown, "what is not installed is not missed"
    fake(monkeypatch, {"hyperopt": "0.2.5"})
    assert doctor() == 0


@pytest.mark.parametrize("python", PYTHONS)
def test_all_good(python: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake(monkeypatch, {}, python)
    assert doctor() == 0
    shown = capsys.readouterr().out
    assert "All is well." in shown
    for name in ranges(python):
        assert re.search(rf"^{name} +{re.escape(GOOD[python][name])} .* ok$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "version", "verdict", "words"),
    [
        ("numpy", "2.4.6", "too new", "newer than the tested range >=1.23.5,<2: RecBole's Config"),
        ("scipy", "1.17.1", "too new", 'Run: pip install "scipy>=1.10.1,<1.13"'),
        ("pandas", "3.0.6", "too new", "missing values"),
        ("setuptools", "82.0.0", "too new", "pkg_resources"),
        ("torch", "2.14.0", "too new", 'Run: pip install "torch>=2.0,<2.14"'),
        ("torch", "2.14.0.dev20261101+cu130", "too new", "newer than the tested range"),
        ("torch", "1.13.1", "too old", "torch 1.13.1 is too old: >=2.0,<2.14 is needed."),
        ("ray", "2.7.0", "too new", 'Run: pip install "ray>=1.13.0,<=2.6.3"'),
        ("recbole", "1.1.1", "too old", 'Run: pip install "recbole>=1.2.1,<1.3"'),
        ("tensorboard", None, "missing", "tensorboard is not installed."),
        ("python", "3.8.18", "too old", "Make an environment with Python 3.11"),
        ("numpy", "unknown", "unreadable", "cannot be compared"),
    ],
)
def test_each_trouble_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    version: str | None,
    verdict: str,
    words: str,
) -> None:
    fake(monkeypatch, {name: version})
    assert doctor() == 1
    shown = capsys.readouterr().out
    assert re.search(rf"^{name} .*{verdict}$", shown, re.MULTILINE)
    advice = [line for line in shown.splitlines() if line.startswith("- ")]
    assert len(advice) == 1 and words in advice[0]


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("python", "3.14.0", "Make an environment with Python 3.11"),
        ("recbole", None, f"recbole is not installed. Run: {WITHOUT_REQUIREMENTS}"),
        ("numpy", "3.0.0", 'Run: pip install "numpy>=1.26,<3"'),
        ("colorama", "0.4.6", 'Run: pip install "colorama==0.4.4"'),
    ],
)
def test_newer_pythons_have_advice_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, version: str | None, words: str
) -> None:
    fake(monkeypatch, {name: version}, "3.13.0")
    assert doctor() == 1
    advice = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    assert len(advice) == 1 and words in advice[0]


@pytest.mark.parametrize("python", PYTHONS)
def test_without_recbole_the_first_import_says_how_to_install_it(python: str) -> None:
    code = (
        "import importlib.abc, platform, sys\n"
        f"platform.python_version = lambda: {python!r}\n"
        "class Missing(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'recbole':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name='recbole')\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from recbole_derrd.cli import main\n"
        "assert main(['--dataset=ml-100k', '--model=BPR']) == 2\n"
        "from recbole_derrd import run_recbole_derrd\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SETUP.parent)
    command = 'pip install "recbole>=1.2.1,<1.3"' if python == "3.11.7" else WITHOUT_REQUIREMENTS
    sentence = f"recbole is not installed. Run: {command}"
    assert f"recbole-derrd: {sentence}" in answer.stderr.splitlines()
    assert answer.stderr.splitlines()[-1] == f"ModuleNotFoundError: {sentence}"


@pytest.mark.parametrize("version", ["2.0.0", "2.13.0", "2.13.0+cpu", "2.13.1+cu130"])
def test_local_builds_of_torch_pass(version: str) -> None:
    assert judge(next(row for row in bounds_on("3.11.7") if row.name == "torch"), version).verdict == "ok"


def test_versions_come_from_metadata() -> None:
    assert installed_version("packaging") == metadata.version("packaging")
    assert installed_version("no-such-distribution-xyz") is None


def test_broken_torch_fails_but_still_shows_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(monkeypatch, {})
    monkeypatch.setattr(doctor_module, "cuda", lambda: ("CUDA was not checked.", False))
    assert doctor() == 1
    shown = capsys.readouterr().out
    assert shown.startswith("package") and shown.index("ok") < shown.index("CUDA was not checked.")
