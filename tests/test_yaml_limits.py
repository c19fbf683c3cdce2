"""YAML within limits: no key twice, no alias that stands for too much, no nesting without end; each a sentence."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import recbole

from recbole_derrd.benchmark.plan import read_plan
from recbole_derrd.config.settings import read_command_line, read_settings, read_yaml, typed_as_yaml
from recbole_derrd.errors import OptionError

ROOT = Path(__file__).resolve().parent.parent


def bomb(first: str, of: str) -> str:
    """Nine levels of ten aliases each."""
    lines = [f"l0: &l0 {first}"]
    lines += [f"l{level}: &l{level} {of % ', '.join([f'*l{level - 1}'] * 10)}" for level in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb("[1, 1]", "[%s]"), "aliases stand for more than 100,000 values"),
        (bomb("{a: 1}", "{<<: [%s], b: 1}"), "aliases stand for more than 100,000 values"),
        ("a: &a [*a]", "a value that it is a part of"),
        ("a: &a {b: {c: *a}}", "a value that it is a part of"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        ("- " * 20_000, "nested too deeply"),
        ("l0: &l0 [1]\n" + "\n".join(f"l{n}: &l{n} [*l{n - 1}]" for n in range(1, 99)), "nested too deeply"),
        ("a: 1\nb: 2\na: 1", "the key 'a' is given twice, first in line 1 in \"<unicode string>\", line 3"),
        ("teacher: {epochs: 1, epochs: 2}", "the key 'epochs' is given twice"),
        ("a: {1: x, 1.0: y}", "the key '1.0' is given twice"),
        ("a: 2024-13-45", "month"),
        ("a: !!timestamp x", "not valid YAML"),
        ("a: !!bool x", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: {? [1] : 2}", "unhashable"),
    ],
)
def test_what_cannot_be_worked_with_is_a_sentence_at_once(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    started = time.process_time()
    for read in (read_settings, read_plan):
        with pytest.raises(OptionError) as error:
            read(file)
        assert words in str(error.value) and "a.yaml" in str(error.value)
    assert typed_as_yaml(text) == text
    assert time.process_time() - started < 3


def test_on_the_command_line_too() -> None:
    with pytest.raises(OptionError, match=r"The value of --teacher is not valid YAML: .*'epochs' is given twice"):
        read_command_line(["--teacher={epochs: 1, epochs: 2}"])
    with pytest.raises(OptionError, match="nested too deeply"):
        read_command_line([f"--teacher={'{a: ' * 99}1{'}' * 99}"])


def test_anchors_and_merges_mean_what_they_mean() -> None:
    text = "base: &base {a: 1, b: &list [1, 2]}\nc: {<<: *base, a: 2}\nd: {<<: [*base, *base], e: *list}\nf: *list"
    assert read_yaml(text, "It") == {
        "base": {"a": 1, "b": [1, 2]}, "c": {"a": 2, "b": [1, 2]}, "d": {"a": 1, "b": [1, 2], "e": [1, 2]}, "f": [1, 2],
    }  # fmt: skip
    assert read_yaml("[" * 40 + "]" * 40, "It")


def test_every_file_that_comes_along_can_be_read() -> None:
    folders = [ROOT / "configs", ROOT / "recbole_derrd", Path(recbole.__file__).parent / "properties"]
    files = [file for folder in folders for file in folder.rglob("*.yaml")]
    assert len(files) > 100
    for file in files:
        read_settings(file)
