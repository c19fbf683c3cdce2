"""A new method is tried by every test that enumerates methods: a fake one is registered and looked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from device.checks_losses import check_loss, loss_checks
from device.plan import Bench
from device.worlds import variants_of

from recbole_derrd.registry import METHODS, Method

ROOT = Path(__file__).resolve().parent.parent
#: The method of examples/, as if it were a built-in one.
FAKE = Method("own_method.HingeDistillation", "the teacher's best items above sampled ones")
#: A plugin of pytest: registers it, and writes down which test reaches its loss.
PLUGIN = """
import os
from own_method import HingeDistillation
from recbole_derrd.registry import METHODS, Method

METHODS["hinge"] = Method(*{fake!r})
forward = HingeDistillation.forward

def counted(self, batch):
    with open({log!r}, "a") as log:
        log.write(os.environ["PYTEST_CURRENT_TEST"].split(" ")[0] + "\\n")
    return forward(self, batch)

HingeDistillation.forward = counted
"""
#: Files that enumerate methods, and whether they train or score by them.
FILES = {
    "tests/distillers/test_coverage.py": False,
    "tests/distillers/test_every_adapter.py": True,
    "tests/distillers/test_preconditions.py": True,
    "tests/distillers/test_whole_runs.py": True,
    "tests/test_on_a_card.py": True,
    "tests/test_model.py": False,
    "tests/test_options.py": False,
}
#: Tests of these that are run: all that name the method, and some of those that try all methods at once.
CHOSEN = "hinge or Hinge or (BPR and (learns or teaches or resumed or precision)) or listed_with_its_options"


@pytest.mark.slow
def test_a_new_method_turns_up_everywhere(tmp_path: Path) -> None:
    """No table of any test has an entry for it. What it lacks, and nothing else, is a file of tests."""
    log = tmp_path / "log"
    (tmp_path / "fake_method.py").write_text(PLUGIN.format(fake=tuple(FAKE), log=str(log)), encoding="utf-8")
    places = [str(ROOT), str(ROOT / "examples"), str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "fake_method", "-m", "not slow"]
    ended = subprocess.run(
        [*command, "-vv", "-k", CHOSEN, *FILES],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = dict(re.findall(r"^(\S+::\S.*?) (PASSED|FAILED|ERROR|SKIPPED)", ended.stdout, flags=re.MULTILINE))
    lacking = "tests/distillers/test_coverage.py::test_method_has_all_kinds_of_test[hinge]"
    assert {test for test, outcome in outcomes.items() if outcome not in ("PASSED", "SKIPPED")} == {lacking}, (
        ended.stdout[-4000:] + ended.stderr[-1000:]
    )
    assert "hinge: no file tests/distillers/test_hinge.py" in ended.stdout
    assert {test.split("::")[0] for test in outcomes} == set(FILES)
    reached = log.read_text(encoding="utf-8").splitlines()
    assert {test.split("::")[0] for test in reached} == {name for name, computes in FILES.items() if computes}


def test_a_new_method_is_checked_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its test_settings and in variants of them, as the others."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setitem(METHODS, "hinge", FAKE)
    bench = Bench("cpu", torch.device("cpu"), True, tmp_path)
    assert "loss/hinge" in {check.name for check in loss_checks(bench)}
    assert ("as in its tests", {"k": 4, "l": 6}) in list(variants_of("hinge"))
    assert check_loss(bench, "hinge")["variants"] > 0
