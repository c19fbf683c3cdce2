"""The prepared checks of a card (tests/device): what they do when something goes wrong, without any card."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from device import check, page, wheels, worker
from device.checks_speed import FirstBatches
from device.plan import Check, FailedError, SkippedError, within

# Says what it is told to: a process that ends in its second check, and one that goes on.
WORKER = """
import json, os, sys
given = dict(argument[2:].split("=", 1) for argument in sys.argv[1:] if "=" in argument)
pipe = os.fdopen(int(given["tell"]), "w")
def told(**message):
    pipe.write(json.dumps(message) + "\\n"); pipe.flush()
def result(name, status="PASS"):
    told(start=name)
    told(result={"name": name, "status": status, "seconds": 1.0, "numbers": {"value": 0.5}, "message": ""})
told(facts={"python": "3", "checked": "a card", "cores": 1})
told(plan=["one", "two", "three"])
done = given["done"].split(",")
if "one" not in done:
    result("one")
if "two" not in done:
    told(start="two")
    print("device-side assert triggered")
    pipe.flush()
    os._exit(134)
result("three")
told(end=True)
"""


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Return a command line whose processes are the one above."""
    (tmp_path / "check.py").write_text(WORKER, encoding="utf-8")
    monkeypatch.setattr(check, "HERE", tmp_path)
    monkeypatch.setattr(check, "GRACE", 600.0)
    return argparse.Namespace(device="cuda", small=True, seconds=600.0, only="*", quiet=False, wheels=None)


def test_a_check_that_ends_its_process_stops_no_other(
    given: argparse.Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = check.Run(given)
    run.make(str(tmp_path))
    content = run.content()
    assert [(one["name"], one["status"]) for one in content["checks"]] == [
        ("one", "PASS"), ("two", "FAIL"), ("three", "PASS")
    ]  # fmt: skip
    assert "device-side assert triggered" in content["checks"][1]["message"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["PASS one 1.0 s value 0.5", lines[2], "PASS three 1.0 s value 0.5"] and "FAIL two" in lines[2]
    assert check.closing_line(content).startswith("device checks (cuda): 2 passed, 1 failed, 0 skipped")
    assert json.loads(json.dumps(content)) == content


def test_what_does_not_fit_is_skipped_and_said(given: argparse.Namespace, tmp_path: Path) -> None:
    given.seconds = 0.0
    run = check.Run(given)
    run.make(str(tmp_path))
    statuses = {one["name"]: one["status"] for one in run.content()["checks"]}
    assert statuses["two"] == "FAIL" and statuses["three"] == "SKIP"


def test_checks_that_cannot_begin_say_why(given: argparse.Namespace, tmp_path: Path) -> None:
    (tmp_path / "check.py").write_text("raise SystemExit('no module named torch')", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"could not begin.*no module named torch"):
        check.Run(given).make(str(tmp_path))


def fails() -> dict[str, Any]:
    """Stand for a check that finds something."""
    within({"error": 0.5}, {"error": 0.1})
    return {}


def breaks() -> dict[str, Any]:
    """Stand for a check that raises what nobody expected."""
    raise KeyError("lost")


def skips() -> dict[str, Any]:
    """Stand for a check that cannot be made."""
    raise SkippedError("it needs two cards")


@pytest.mark.parametrize(
    ("run", "left", "status", "words"),
    [
        (lambda: {"error": 0.1, "note": "by the way"}, 9, "PASS", "by the way"),
        (fails, 9, "FAIL", "error is 0.5, bound 0.1"),
        (breaks, 9, "FAIL", "KeyError: 'lost' [test_device_check.py:"),
        (skips, 9, "SKIP", "it needs two cards"),
        (fails, 3, "SKIP", "3 s are left, it takes about 5"),
    ],
)
def test_what_becomes_of_a_check(run: Any, left: float, status: str, words: str) -> None:
    result = worker.outcome_of(Check("group/one", 5, run), left)
    assert result["status"] == status and words in result["message"]


@pytest.mark.parametrize("value", [0.2, math.nan, math.inf])
def test_a_number_beyond_its_bound_fails(value: float) -> None:
    within({"error": 0.1}, {"error": 0.1})
    with pytest.raises(FailedError, match=r"error is .*, bound 0.1 \(somewhere\)"):
        within({"error": value}, {"error": 0.1}, "somewhere")


def test_the_clock_leaves_out_the_first_batches_and_the_end_of_the_loader() -> None:
    waits: list[float] = []
    batches = FirstBatches(range(100), lambda: waits.append(time.perf_counter()), warm_up=2, timed=3)
    assert len(batches) == 5 and list(batches) == [0, 1, 2, 3, 4]
    assert len(waits) == 2 and batches.seconds == pytest.approx((waits[1] - waits[0]) / 3, rel=0.5)
    short = FirstBatches(range(4), lambda: None, warm_up=5, timed=30)
    assert len(list(short)) == len(short) == 3 and short.seconds > 0


# -- wheels


def test_what_is_there_in_the_wrong_version_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under pandas 3 RecBole's numbers would be wrong without a word."""
    pandas = next(package for package in wheels.NEEDED if package.name == "pandas")
    assert wheels.unsuitable([pandas]) == []
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.1.1")
    assert wheels.unsuitable([pandas]) == [pandas]
    assert "pandas<3" in wheels.said([pandas], None) and "--collect-wheels=FOLDER" in wheels.said([pandas], None)


def test_all_that_is_imported_is_named() -> None:
    """What is named is there, and helpers are no reason to give up."""
    assert wheels.fatal(wheels.unsuitable()) == []
    unknown = wheels.Package("nosuch", "no_such_module"), wheels.Package("other", "no_such_other", helper=True)
    assert wheels.fatal(wheels.unsuitable(unknown)) == [unknown[0]]
    assert importlib.util.find_spec("recbole") is not None


# -- the page


def test_the_page_is_made_from_the_numbers_alone() -> None:
    def one(name: str, status: str = "PASS", message: str = "", **numbers: Any) -> dict[str, Any]:
        return {"name": name, "status": status, "seconds": 1.25, "numbers": numbers, "message": message}

    content = {
        "schema": 1, "device": "cuda", "small": False, "seconds": 99.0, "facts": {"card": "a card", "cores": 16},
        "checks": [
            one("loss/rrd", variants=6, **{"float32 value": 1.5e-7}),
            one("training/BPR", "FAIL", "metrics is 0.2 | bound 0.01"),
            one("speed/citeulike/BPR", **{"step ms": 2.0, "epoch s": 0.4, "data": "5,551 users."}),
            one("speed/citeulike/BPR + rrd", **{"step ms": 3.0, "epoch s": 0.6, "to plain": 1.5, "to stock": 0.75}),
        ],
    }  # fmt: skip
    text = page.page_of(content)
    assert "| card | a card |" in text and "3 checks passed, 1 failed, 0 were skipped, in 99 s." in text
    assert "| rrd | PASS | 1.2 | variants 6, float32 value 1.5e-07 |" in text
    assert "| BPR | FAIL | 1.2 | metrics is 0.2 / bound 0.01 |" in text
    assert "## Epochs, citeulike's size" in text and "5,551 users." in text
    assert "| BPR + rrd | PASS  | 3 | - | 0.6 | 1.5 | 0.75 | - |" in text
