"""Where a student starts: at the best approximation of its teacher's scores, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from hypothesis import example, given, settings, strategies
from torch import Tensor

from recbole_derrd.adapters.graph import least_squares
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.experiment.compress import run_compressed
from recbole_derrd.experiment.preflight import check_run
from recbole_derrd.ops.svd import score_factors
from recbole_derrd.quick_start import knowledge_of, run_recbole_derrd, teachers_of
from recbole_derrd.student.model import build_student
from recbole_derrd.teacher import Teacher

pytestmark = pytest.mark.whole_run

Settings = Callable[..., dict[str, Any]]


def started(tiny_settings: Settings, model: str, size: int, teacher: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    """A student as it starts, and the knowledge that it starts from."""
    keys = tiny_settings(
        model,
        embedding_size=size,
        teacher=teacher,
        distillers=["listwise"],
        warm_start="svd",
        teacher_model="BPR",
        latency_users=0,
        **more,
    )
    config = DistillConfig(model, "tiny", config_dict=keys)
    check_run(config)
    data = prepare_data(config)
    knowledge = knowledge_of(config, Teacher.of(config, data), data)
    return build_student(config, prepare_data(config), knowledge), knowledge


def best_scores(knowledge: Any, size: int) -> Tensor:
    """The teacher's whole score matrix, cut off at a rank: Eckart and Young."""
    users, items = (torch.from_numpy(knowledge.embeddings(side))[1:].double() for side in ("user", "item"))
    left, values, right = torch.linalg.svd(users @ items.T, full_matrices=False)
    return ((left[:, :size] * values[:size]) @ right[:size]).float()


@pytest.mark.parametrize(("model", "more"), [("BPR", {}), ("LightGCN", {"n_layers": 2}), ("LightGCN", {"n_layers": 4})])
@pytest.mark.parametrize("size", [3, 8])
def test_a_student_starts_at_its_teachers_best_approximation(
    tiny_settings: Settings, model: str, more: dict[str, Any], size: int
) -> None:
    student, knowledge = started(tiny_settings, model, size, {"embedding_size": 8, "epochs": 2}, **more)
    wanted = best_scores(knowledge, size)
    with torch.no_grad():
        scores = student.adapter.score_all(torch.arange(student.n_users))[1:, 1:]
    assert (scores - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("layers", [1, 3])
def test_an_odd_number_of_layers_comes_as_near_as_it_can(tiny_settings: Settings, layers: int) -> None:
    """Their propagation P is singular: what is missed is what P takes to nothing."""
    student, knowledge = started(tiny_settings, "LightGCN", 4, {"embedding_size": 8, "epochs": 2}, n_layers=layers)
    wanted = score_factors(*(torch.from_numpy(knowledge.embeddings(side))[1:] for side in ("user", "item")), 4)
    with torch.no_grad():
        missed = [want - got[1:] for want, got in zip(wanted, student.forward())]
        for table, rows in zip((student.user_embedding, student.item_embedding), missed):
            table.weight.zero_()
            table.weight[1:] = rows
        left = torch.cat(student.forward())
    assert torch.cat(missed).abs().max() > 1e-3
    assert left.abs().max() < 1e-2 * torch.cat(missed).abs().max()


@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_the_padding_rows_stay(tiny_settings: Settings, model: str) -> None:
    warm, _ = started(tiny_settings, model, 4, {"embedding_size": 8, "epochs": 2})
    keys = tiny_settings(model, embedding_size=4, latency_users=0)
    config = DistillConfig(model, "tiny", config_dict=keys)
    cold = build_student(config, prepare_data(config), None)  # type: ignore[arg-type]
    for name in ("user_embedding", "item_embedding"):
        assert torch.equal(getattr(warm, name).weight[0], getattr(cold, name).weight[0])
        assert not torch.equal(getattr(warm, name).weight[1:], getattr(cold, name).weight[1:])


@given(n=strategies.integers(1, 10), rank=strategies.integers(1, 10), seed=strategies.integers(0, 999))
@example(n=10, rank=1, seed=685)
@settings(deadline=None, max_examples=60)
def test_least_squares_are_those_of_a_solver(n: int, rank: int, seed: int) -> None:
    """Singular matrices, unreachable right sides, a right side of zeros."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    values = torch.where(torch.arange(n) < rank, torch.linspace(-1, 3, n, dtype=torch.float64) + 1.5, 0.0)
    matrix = (basis * values) @ basis.T
    wanted = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    wanted[:, 0] = 0
    found = least_squares(lambda columns: matrix @ columns, wanted, 4 * n, norm=float(values.max()))
    torch.testing.assert_close(found, torch.linalg.pinv(matrix, rtol=1e-9) @ wanted, rtol=1e-5, atol=1e-5)


def test_a_warm_student_is_another_student_and_the_plain_one_is_not(tiny_settings: Settings) -> None:
    common = {"distillers": ["listwise"], "latency_users": 0, "epochs": 2, "teacher": {"embedding_size": 16}}
    runs = [
        run_recbole_derrd("BPR", "tiny", config_dict=tiny_settings("BPR", warm_start=start, **common))
        for start in ("none", "svd")
    ]
    assert runs[0]["checkpoints"]["student"] != runs[1]["checkpoints"]["student"]
    assert runs[0]["distilled"]["valid"] != runs[1]["distilled"]["valid"]
    assert runs[0]["student"]["test"] == runs[1]["student"]["test"]
    assert [run["options"].get("warm_start") for run in runs] == [None, "svd"]


@pytest.mark.parametrize(
    ("model", "teacher", "message"),
    [
        ("NeuMF", "BPR", "warm_start cannot set the embeddings of NeuMF, only those of BPR, LINE, LightGCN."),
        ("ENMF", "BPR", "warm_start cannot set the embeddings of ENMF"),
        ("BPR", "MultiVAE", "needs a teacher whose score is the dot product of two embeddings, and MultiVAE's is not"),
        # These have embeddings, whose products are not their scores.
        ("BPR", "NeuMF", "needs a teacher whose score is the dot product of two embeddings, and NeuMF's is not"),
        ("BPR", "NNCF", "needs a teacher whose score is the dot product of two embeddings, and NNCF's is not"),
    ],
)
def test_what_cannot_start_is_refused_early(tiny_settings: Settings, model: str, teacher: str, message: str) -> None:
    keys = tiny_settings(model, distillers=["listwise"], teacher_model=teacher, warm_start="svd")
    with pytest.raises(OptionError, match=message):
        check_run(DistillConfig(model, "tiny", config_dict=keys))


def test_a_teacher_smaller_than_its_student_is_refused_early(tiny_settings: Settings) -> None:
    more = {"distillers": ["listwise"], "warm_start": "svd", "embedding_size": 8, "teacher": {"embedding_size": 4}}
    with pytest.raises(OptionError, match="at least the student's 8 dimensions; its embeddings have 4"):
        check_run(DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **more)))


def test_more_dimensions_than_users_are_refused_before_training(tiny_settings: Settings) -> None:
    keys = tiny_settings("BPR", distillers=["listwise"], warm_start="svd", embedding_size=50)
    with pytest.raises(OptionError, match="cannot fill 50 dimensions: 'tiny' has 30 users"):
        run_recbole_derrd("BPR", "tiny", config_dict=keys)
    assert not list(Path(keys["checkpoint_dir"]).rglob("*.pth"))


def test_of_several_teachers_the_best_that_can_gives_the_start(tiny_settings: Settings) -> None:
    """Not NeuMF, whose products are no scores, nor the BPR that is too small, however good they are."""
    able = [{"model": "BPR", "embedding_size": size, "epochs": epochs} for size, epochs in ((8, 1), (9, 6))]
    others = [{"model": "NeuMF", "epochs": 8}, {"model": "BPR", "embedding_size": 3, "epochs": 20}, {"model": "Pop"}]
    keys = tiny_settings("BPR", distillers=["listwise"], warm_start="svd", embedding_size=5, latency_users=0)
    config = DistillConfig("BPR", "tiny", config_dict={**keys, "teachers": [*others, *able]})
    check_run(config)
    data = prepare_data(config)
    teachers = teachers_of(config, data)
    metric = config["valid_metric"].lower()
    best = max(teachers[3:], key=lambda teacher: teacher.trained.valid[metric])
    student = build_student(config, prepare_data(config), knowledge_of(config, teachers, data))
    wanted = best_scores(knowledge_of(config, best, data), 5)
    with torch.no_grad():
        scores = student.adapter.score_all(torch.arange(student.n_users))[1:, 1:]
    assert (scores - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        (["NeuMF", "Pop"], "the dot product of two embeddings, and NeuMF or Pop's is not"),
        (["Pop", {"model": "BPR", "embedding_size": 4}], "at least the student's 8 dimensions; its embeddings have 4"),
    ],
)
def test_several_teachers_of_which_none_can_are_refused_early(
    tiny_settings: Settings, teachers: list[Any], message: str
) -> None:
    keys = tiny_settings("BPR", distillers=["listwise"], warm_start="svd", teachers=teachers, embedding_size=8)
    with pytest.raises(OptionError, match=message):
        check_run(DistillConfig("BPR", "tiny", config_dict=keys))


def test_a_run_without_a_teacher_says_so(tiny_settings: Settings) -> None:
    keys = tiny_settings("BPR", distillers=[], warm_start="svd")
    with pytest.raises(OptionError, match="a run without distillers has none"):
        run_recbole_derrd("BPR", "tiny", config_dict=keys)


def test_compressing_the_teacher_of_a_warm_run_needs_nothing_taken_out(tiny_settings: Settings) -> None:
    keys = tiny_settings("BPR", distillers=["listwise"], warm_start="svd", latency_users=0)
    keys.update(teacher={"epochs": 1}, compress_method="quantized", compress_bits=4)
    assert run_compressed("BPR", "tiny", config_dict=keys)["compression"]["bits"] == 4
