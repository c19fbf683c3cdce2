"""Configurations that come with the package are named without a path, wherever the working directory is."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_derrd.benchmark.plan import read_plan
from recbole_derrd.cli import main
from recbole_derrd.config import shipped
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.settings import read_settings
from recbole_derrd.config.shipped import shipped_file, shipped_names, summary_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_configuration_of_the_repository_has_a_name_and_says_what_it_is() -> None:
    assert {shipped_file(name) for name in shipped_names()} == set(ROOT.glob("configs/**/*.yaml"))
    assert {"quickstart", "methods/rrd", "benchmark/quick"} <= set(shipped_names())
    assert all(summary_of(name) for name in shipped_names())


def test_names_are_read_as_files_are() -> None:
    assert read_settings("hetcomp/quickstart")["distillers"]
    config = DistillConfig(config_file_list=["quickstart", "methods/rrd"])
    assert config["distillers"] == ["rrd"] and config["dataset"] == "ml-100k"
    assert read_plan("benchmark/quick").name == "quick" and read_plan("benchmark/quick").experiments


def test_a_file_of_ones_own_goes_first() -> None:
    Path("quickstart").write_text("epochs: 7\n", encoding="utf-8")
    Path("hetcomp").mkdir()
    assert read_settings("quickstart") == {"epochs": 7}
    assert read_settings("hetcomp/quickstart")["distillers"]


def test_in_an_installed_package_they_lie_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "site-packages" / "recbole_derrd")
    (tmp_path / "site-packages" / "configs").mkdir(parents=True)
    (tmp_path / "site-packages" / "recbole_derrd" / "configs").mkdir(parents=True)
    assert shipped_names() == []
    (tmp_path / "site-packages" / "recbole_derrd" / "configs" / "one.yaml").write_text("epochs: 3\n", encoding="utf-8")
    assert shipped_names() == ["one"] and read_settings("one") == {"epochs": 3}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quickstrat", "Did you mean 'quickstart'? 'recbole-derrd help configs' lists those that do."),
        ("zzzzzzzz", "none of that name comes with the package. 'recbole-derrd help configs'"),
        ("configs/quickstart.yaml", "It comes with the package under the name 'quickstart'."),
        ("methods/rrd.yaml", "under the name 'methods/rrd'."),
        ("../methods/rrd", "There is no config file '../methods/rrd'"),
        ("nowhere.yaml", "Cannot read the config file 'nowhere.yaml': No such file or directory."),
        (".", "Cannot read the config file '.'"),
    ],
)
def test_what_is_neither_file_nor_name_is_refused(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--config_files={name}"]) == 2
    assert words in capsys.readouterr().err


def test_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "configs"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in shipped_names()) and "A first run" in shown


@pytest.mark.parametrize(("arguments", "name"), [([], "quickstart"), (["--config_files=methods/rrd"], "methods/rrd")])
def test_the_quick_start_is_found_from_anywhere(
    arguments: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(
        "recbole_derrd.quick_start.run_recbole_derrd",
        lambda config_file_list, **_: given.extend(config_file_list) or {},
    )
    monkeypatch.setattr("logging.Logger.isEnabledFor", lambda *_: True)
    assert main(arguments) == 0
    assert read_settings(given[0]) == read_settings(shipped_file(name))
