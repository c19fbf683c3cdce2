"""examples/ as its user meets it: from its own folder, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the examples, which a run may write beside."""
    return Path(shutil.copytree(ROOT / "examples", tmp_path / "examples"))


def ended(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run python in the folder to its end."""
    # The folder itself is found as the working directory, as it is by its user.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_its_tests_pass(folder: Path) -> None:
    found = ended(folder, "-m", "pytest", "-q", "test_own_method.py")
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    assert " passed" in found.stdout and "warning" not in found.stdout


@pytest.mark.slow
def test_a_kind_of_test_that_is_missing_fails(folder: Path) -> None:
    own = folder / "test_own_method.py"
    own.write_text(own.read_text(encoding="utf-8").replace("test_golden_", "test_"), encoding="utf-8")
    found = ended(folder, "-m", "pytest", "-q", "test_own_method.py", "-k", "kinds")
    assert found.returncode == 1 and "hinge: no test_golden_..." in found.stdout


@pytest.mark.slow
def test_its_run(folder: Path) -> None:
    """Two epochs instead of all."""
    short = ("--epochs=2", "--teacher={embedding_size: 8}", "--compare_student=False", "--latency_users=0", "--verbose")
    found = ended(folder, "-m", "recbole_derrd", "--config_files=own_method.yaml", *short)
    assert found.returncode == 0, found.stderr[-3000:]
    (record,) = (json.loads(path.read_text(encoding="utf-8")) for path in (folder / "records").glob("*.json"))
    assert record["distillers"] == ["own_method.HingeDistillation"] and record["dataset"] == "ml-100k"
    assert "hinge: 0." in found.stderr + found.stdout and "Record: records/" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("first_distillation", "| DE-RRD | BPR | 1 |"),
        ("own_data", "[Recommended(item="),
        ("frontier", " 4 B: 32 x 1 bit of the teacher"),
    ],
)
def test_a_notebook_in_its_small_form(folder: Path, name: str, shown: str) -> None:
    found = ended(folder, f"{name}.py", "--small")
    assert found.returncode == 0, found.stderr[-3000:]
    assert shown in found.stdout


@pytest.mark.parametrize("name", ["first_distillation", "own_data", "frontier"])
def test_a_notebook_has_cells_of_text_and_of_code(name: str) -> None:
    lines = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()
    cells = [line for line in lines if line.startswith("# %%")]
    assert set(cells) == {"# %%", "# %% [markdown]"} and len(cells) > 6
