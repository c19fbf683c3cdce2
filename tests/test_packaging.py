"""Sdist and wheel hold all that the package needs, and what they install works without the repository."""

from __future__ import annotations

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from recbole_derrd import __version__
from recbole_derrd.config.shipped import shipped_names

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def ran(*command: str | Path, cwd: Path, **more: str) -> str:
    """Run a command that must succeed, without the caller's Python path; return its output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    answer = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, env={**environment, **more}
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("sdist")
    code = (
        "import setuptools.build_meta as backend, sys\n"
        "backend.build_sdist(sys.argv[1], {'--global-option': ['egg_info', '--egg-base', sys.argv[2]]})"
    )
    (folder / "info").mkdir()
    before = set(ROOT.iterdir())
    ran(sys.executable, "-c", code, folder, folder / "info", cwd=ROOT)
    assert set(ROOT.iterdir()) == before
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder)
    (unpacked,) = (path for path in folder.glob(f"recbole_derrd-{__version__}") if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that is built of the sdist."""
    code = "import setuptools.build_meta as backend, sys; backend.build_wheel(sys.argv[1])"
    ran(sys.executable, "-c", code, sdist.parent, cwd=sdist)
    (built,) = sdist.parent.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(
    request: pytest.FixtureRequest, sdist: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The Python of an environment with the wheel or the sdist, which takes everything else from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    # As from an index, but built with this environment's setuptools, of which pip sees this package as well.
    (archive,) = [wheel] if request.param == "wheel" else sdist.parent.glob("*.tar.gz")
    alone = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    ran(python, "-m", "pip", "install", *alone, archive, cwd=folder, PYTHONPATH=places_of_others())
    return python


def places_of_others() -> str:
    """The folders of this environment's packages, as a Python path; an editable install in them is not followed."""
    return os.pathsep.join(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))


def test_the_wheel_holds_package_and_configurations_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"recbole_derrd", f"recbole_derrd-{__version__}.dist-info"}
    configs = {name for name in names if name.startswith("recbole_derrd/configs/")}
    assert configs == {f"recbole_derrd/configs/{name}.yaml" for name in shipped_names()}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recbole_derrd").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}
    assert "recbole_derrd/py.typed" in names


def test_its_metadata_say_how_it_is_shown_and_installed(wheel: Path) -> None:
    text = zipfile.ZipFile(wheel).read(f"recbole_derrd-{__version__}.dist-info/METADATA").decode()
    told = email.message_from_string(text)
    assert SpecifierSet(told["Requires-Python"]) == SpecifierSet(">=3.9,<3.14")
    assert told["Description-Content-Type"] == "text/markdown" and "# recbole_derrd" in text
    required = [Requirement(line) for line in told.get_all("Requires-Dist")]
    for python, needs_recbole in (("3.11", True), ("3.12", False)):
        theirs = [one.name for one in required if one.marker is None or one.marker.evaluate({"python_version": python})]
        assert ("recbole" in theirs) == needs_recbole and "torch" in theirs


def test_what_is_installed_works_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    command = installed.parent / "recbole-derrd"
    more = {"PYTHONPATH": places_of_others()}
    assert ran(command, "--version", cwd=tmp_path, **more).strip() == __version__
    assert "rrd_weight" in ran(command, "help", "rrd", cwd=tmp_path, **more)
    assert "methods/rrd" in ran(command, "help", "configs", cwd=tmp_path, **more)
    code = (
        "import sys, recbole_derrd\n"
        "from recbole_derrd.cli import main\n"
        f"assert recbole_derrd.__file__.startswith({str(installed.parent.parent)!r})\n"
        "assert main(['--help']) == 0 and main(['help', 'configs']) == 0\n"
        "assert not {'torch', 'numpy', 'recbole'} & set(sys.modules)"
    )
    ran(installed, "-c", code, cwd=tmp_path, **more)


def test_what_is_installed_runs_the_quick_start(installed: Path, tmp_path: Path) -> None:
    command = installed.parent / "recbole-derrd"
    more = {"PYTHONPATH": places_of_others(), "OMP_NUM_THREADS": "1"}
    said = ran(command, "--config_files=quickstart", "--epochs=1", cwd=tmp_path, **more)
    assert "Distilled student" in said and list(tmp_path.glob("records/*.json"))


def test_an_index_shows_no_link_that_leads_nowhere(wheel: Path) -> None:
    text = zipfile.ZipFile(wheel).read(f"recbole_derrd-{__version__}.dist-info/METADATA").decode()
    assert "](https://recbole.io)" in text
    assert not re.findall(r"\]\((?!https?://)[^)]*\)", text)


HOME = "https://forge.example/us/recbole_derrd"
PAGE = """[a](docs/a.md) and [two
lines](docs/b.md#c), ![a plot](docs/p.svg), [out](https://example.org/x) [here](#part) `[de, rrd]` (no link)"""


@pytest.mark.parametrize(
    ("home", "shown"),
    [
        (
            HOME,
            f"[a]({HOME}/blob/HEAD/docs/a.md) and [two\nlines]({HOME}/blob/HEAD/docs/b.md#c), "
            f"![a plot]({HOME}/raw/HEAD/docs/p.svg), ",
        ),
        ("", "a and two\nlines, , "),
    ],
)
def test_links_are_absolute_where_the_project_has_a_home(home: str, shown: str) -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (node,) = (one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == "with_absolute_links")
    names: dict[str, Any] = {"re": re}
    exec(ast.unparse(node), names)
    rest = "[out](https://example.org/x) [here](#part) `[de, rrd]` (no link)"
    assert names["with_absolute_links"](PAGE, home) == shown + rest


def test_a_home_is_in_the_metadata(sdist: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(sdist, copied)
    with (copied / "CITATION.cff").open("a", encoding="utf-8") as file:
        file.write(f'repository-code: "{HOME}/"\n')
    code = "import setuptools.build_meta as backend; print(backend.prepare_metadata_for_build_wheel('.'))"
    made = ran(sys.executable, "-c", code, cwd=copied).splitlines()[-1]
    text = (copied / made / "METADATA").read_text(encoding="utf-8")
    told = email.message_from_string(text)
    assert f"Source, {HOME}" in told.get_all("Project-URL") and f"]({HOME}/blob/HEAD/docs/methods/README.md)" in text
