"""Every distillation method has its tests, of all five kinds; and this check can fail."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.testing import KINDS, LossContract, gaps


def gaps_of(name: str) -> list[str]:
    """Say what the tests of a method lack."""
    wanted = f"{__package__}.test_{name}"
    try:
        module = importlib.import_module(wanted)
    except ModuleNotFoundError as error:
        if error.name != wanted:
            raise
        return [f"{name}: no file tests/distillers/test_{name}.py"]
    return gaps(module, name)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_method_has_all_kinds_of_test(name: str) -> None:
    assert gaps_of(name) == []


def test_there_are_methods() -> None:
    """An empty registry would make the test above pass for nothing."""
    assert {"de", "rrd"} <= set(METHODS)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_registries_agree(name: str) -> None:
    """A method whose options are registered under another name would read another method's options."""
    assert method_class(name).name == name
    assert method_class(name).options_class.prefix == f"{name}_"


def test_method_without_file_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proof that the check can fail."""
    monkeypatch.setitem(METHODS, "fake", METHODS["de"])
    assert [gap for name in METHODS for gap in gaps_of(name)] == ["fake: no file tests/distillers/test_fake.py"]


def test_broken_test_module_is_no_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import error inside a test module must not read as 'no file'."""
    package = importlib.import_module(str(__package__))
    (tmp_path / "test_fake.py").write_text("import no_such_module_xyz\n", encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_module_xyz"):
        gaps_of("fake")


def fake_module(kinds: tuple[str, ...], title: str = "TestFake", **attributes: object) -> ModuleType:
    """Return a test module of the method "fake" with one test of each of these kinds."""
    module = ModuleType("test_fake")
    tests = {f"test_{kind}_something": lambda self: None for kind in kinds}
    setattr(module, title, type(title, (LossContract,), {"method": "fake", **tests, **attributes}))
    return module


def test_complete_fake_passes() -> None:
    assert gaps(fake_module(KINDS), "fake") == []


@pytest.mark.parametrize("missing", KINDS)
def test_each_missing_kind_is_found(missing: str) -> None:
    module = fake_module(tuple(kind for kind in KINDS if kind != missing))
    assert gaps(module, "fake") == [f"fake: no test_{missing}_..."]


def test_skipped_test_does_not_count() -> None:

    @pytest.mark.skip(reason="stands for a test that somebody has switched off")
    def skipped(self: LossContract) -> None:
        raise AssertionError

    module = fake_module(KINDS, test_golden_something=skipped)
    assert gaps(module, "fake") == ["fake: no test_golden_..."]


@pytest.mark.parametrize("title", ["Fake", "FakeTest"])
def test_class_that_pytest_would_not_collect_does_not_count(title: str) -> None:
    assert len(gaps(fake_module(KINDS, title=title), "fake")) == 1


def test_other_method_s_class_does_not_count() -> None:
    assert len(gaps(fake_module(KINDS), "de")) == 1
