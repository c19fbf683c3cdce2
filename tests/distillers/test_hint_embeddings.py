"""Which hint layers a student and its teacher are compared at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recbole_derrd.distillers.de import DEOptions
from recbole_derrd.distillers.hint_embeddings import HintEmbeddings
from recbole_derrd.distillers.nkd import NKDOptions
from recbole_derrd.errors import OptionError


def test_layers_are_one_or_as_many() -> None:
    assert NKDOptions(hint=" a ", teacher_hint="b").layers() == ["a"]
    assert NKDOptions().layers() == NKDOptions().teacher_layers() == [None]
    for names in ({"hint": "a+b"}, {"teacher_hint": "a+b"}, {"hint": "a+b", "teacher_hint": "c+d"}):
        with pytest.raises(OptionError, match="name one layer each"):
            NKDOptions(**names)  # type: ignore[arg-type]
    for names in ({"hint": "a+b"}, {"hint": "a + b", "teacher_hint": "c"}, {"hint": "a+b", "teacher_hint": "c+d"}):
        assert DEOptions(**names).layers() == ["a", "b"]  # type: ignore[arg-type]
    for hint, teacher_hint in (("a+b", "c+d+e"), ("a+b+c", "d+e"), ("a", "b+c")):
        with pytest.raises(OptionError, match="give one or as many"):
            DEOptions(hint=hint, teacher_hint=teacher_hint)


def of(student: tuple[str, ...], teacher: tuple[str, ...], tables: bool, **named: Any) -> tuple[str, str | None]:
    """Return the student's and the teacher's layer; the teacher's table says which one was read."""
    read: list[str | None] = []

    def embeddings(side: str, layer: str | None) -> np.ndarray[Any, Any]:
        read.append(layer)
        return np.zeros((3, 6), dtype=np.float32)

    knowledge: Any = SimpleNamespace(teacher_hints=teacher, embeddings=embeddings)
    model: Any = SimpleNamespace(hints=student, device=torch.device("cpu"), layer=lambda name: name or student[0])
    if tables:
        found = HintEmbeddings.of_tables(model, knowledge, NKDOptions(**named))
    else:
        found = HintEmbeddings(model, knowledge, model.layer(named.get("hint")), named.get("teacher_hint"))
    assert read == [found.teacher_layer] * 2
    return found.layer, found.teacher_layer


def test_the_teachers_layer_is_the_students_where_it_has_that_one() -> None:
    assert of(("out", "ego"), ("ego", "out"), False) == ("out", "out")
    assert of(("out", "ego"), ("mlp",), False) == ("out", None)
    assert of(("out", "ego"), ("ego", "out"), False, teacher_hint="ego") == ("out", "ego")


def test_tables_are_what_graph_models_call_ego() -> None:
    assert of(("out", "ego"), ("out", "ego"), True) == ("ego", "ego")
    assert of(("out", "ego"), ("embedding",), True) == ("ego", None)
    assert of(("embedding",), ("out", "ego"), True) == ("embedding", "ego")
    assert of(("embedding",), ("embedding", "ego"), True) == ("embedding", "embedding")
    assert of(("out", "ego"), ("out", "ego"), True, hint="out") == ("out", "out")
    assert of(("embedding",), ("out", "ego"), True, teacher_hint="out") == ("embedding", "out")


def test_sizes_and_rows_are_those_of_the_layer() -> None:
    model: Any = SimpleNamespace(
        device=torch.device("cpu"),
        embeddings=lambda side, ids, layer: torch.ones(len(ids), {"user": 3, "item": 4}[side], dtype=torch.float64),
    )
    knowledge: Any = SimpleNamespace(teacher_hints=("a",), embeddings=lambda side, layer: np.zeros((9, 6)))
    hints = HintEmbeddings(model, knowledge, "a", None)
    assert hints.sizes() == {"user": (3, 6), "item": (4, 6)}
    assert hints.embeddings("user", torch.tensor([1, 2])).dtype == torch.float32
