"""Every method with every RecBole model: untrained, one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_derrd.adapters import ADAPTERS, adapter_class, adapter_of
from recbole_derrd.config.distill_config import WHOLE_USER_MODELS, DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.distillers import Need
from recbole_derrd.model_cache.building import build_model, freeze
from recbole_derrd.recbole_compat.models import missing_package, model_class
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.student.model import build_student, step_batch
from recbole_derrd.teacher import GivenTeacher, Knowledge, StoredKnowledge

#: Options beside the methods' own ``test_settings``, so that more of them is looked at.
MORE = {
    "hetcomp_fine_weight": 1.0, "hetcomp_interval": 1, "sld_student_share": 0.3, "cpd_pair_weight": 0.1,
    "nkd_dropout": 0.1, "freqd_keep": 0.5, "freqd_dropout": 0.2,
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    **{
        method_class(name).options_class.prefix + key: value
        for name in METHODS
        for key, value in {"weight": 1.0, **method_class(name).test_settings}.items()
    },
    **MORE,
}
#: Methods of models without embeddings as well.
BY_RANKINGS = [name for name in METHODS if Need.EMBEDDINGS not in method_class(name).needs]


def methods_of(model: str, knowledge: Knowledge) -> list[str]:
    """Return the methods that this student can learn by from this teacher."""
    student = adapter_class(model_class(model))
    by_embeddings = student.hints and knowledge.teacher_hints and model not in WHOLE_USER_MODELS
    return list(METHODS) if by_embeddings else BY_RANKINGS


@pytest.fixture(scope="module")
def arrays_of_bpr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what the untrained BPR knows, which is the same for every student."""
    return tmp_path_factory.mktemp("bpr")


def knowledge_of(model: str, tiny_settings: Any, folder: Path) -> Knowledge:
    """Return the knowledge of an untrained teacher."""
    config = DistillConfig(model, "tiny", config_dict=tiny_settings(model))
    data = prepare_data(config)
    built = build_model(config, data)
    if model == "Pop":
        for batch in data.train:
            built.calculate_loss(batch)
    if model == "BPR":
        # From the seed of a BPR student it is that student, of which there is nothing to learn.
        with torch.no_grad():
            for weight in built.parameters():
                weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    teacher = adapter_of(freeze(built))
    return StoredKnowledge(folder, GivenTeacher(lambda: teacher, teacher.hints), data.history)


def one_step(
    model: str, tiny_settings: Any, knowledge: Knowledge, names: list[str] | None = None, **more: Any
) -> tuple[Any, dict[str, float]]:
    """Build a student of these methods, or all that it can learn by; train it by one step; return it and the terms."""
    methods = names or methods_of(model, knowledge)
    settings = {**tiny_settings(model), **SETTINGS, **more, "distillers": methods}
    config = DistillConfig(model, "tiny", config_dict=settings)
    data = prepare_data(config)
    student = build_student(config, data, knowledge)
    student.train()
    student.begin_epoch(0)
    if model == "NCL":
        student.e_step()
    # RecVAE's loss asks which of its two phases it is in, and is a sum already.
    losses = student.calculate_loss(next(iter(data.train)), **({"encoder_flag": True} if model == "RecVAE" else {}))
    (sum(losses) if isinstance(losses, tuple) else losses).backward()
    return student, {name: float(student.last_terms[name]) for name in methods}


def skip_without_package(model: str) -> None:
    if missing_package(model):
        pytest.skip(missing_package(model))


@pytest.mark.parametrize(
    ("names", "more"),
    [
        (None, {"hetcomp_fine": "none", "dcd_student_ranks": "unobserved"}),
        (
            ["listwise", "cd", "ir_rrd", "hetcomp"],
            {"listwise_top_n": 8, "cd_top_n": 12, "ir_rrd_max_items": 5, "hetcomp_remainder": 5},
        ),
    ],
    ids=["all", "part"],
)
@pytest.mark.parametrize("model", sorted(name for name, adapter in ADAPTERS.items() if adapter.trainable))
def test_every_student_learns(
    model: str, names: list[str] | None, more: dict[str, Any], tiny_settings: Any, arrays_of_bpr: Path
) -> None:
    """Terms are positive and finite, and every weight that has a gradient has a finite one."""
    skip_without_package(model)
    knowledge = knowledge_of("BPR", tiny_settings, arrays_of_bpr)
    student, terms = one_step(model, tiny_settings, knowledge, names, **more)
    assert all(0 < term < 1e6 for term in terms.values()), terms
    gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert gradients and all(torch.isfinite(part.to_dense() if part.is_sparse else part).all() for part in gradients)


@pytest.mark.parametrize("model", ["SimpleX", "FISM", "ENMF"])
@pytest.mark.parametrize("method", [name for name in BY_RANKINGS if name != "rd"])
def test_rd_takes_no_gradients_from_what_follows(
    method: str, model: str, tiny_settings: Any, arrays_of_bpr: Path
) -> None:
    """RD looks at the student's scores without gradients first; what is computed once a step is not those alone."""
    more = {"rd_k": 1, "rd_negatives": 8, "train_batch_size": 8, "cd_n_distill": 15, "distillers": ["rd", method]}
    config = DistillConfig(model, "tiny", config_dict={**tiny_settings(model), **SETTINGS, **more})
    data = prepare_data(config)
    student = build_student(config, data, knowledge_of("BPR", tiny_settings, arrays_of_bpr))
    student.eval()
    student.begin_epoch(0)
    batch = step_batch(student, next(iter(data.train)))
    first, second = student.distillers
    found = []
    for looked_at in (False, True):
        student.zero_grad()
        with student.adapter.shared():
            if looked_at:
                first(batch)
            second(batch).backward()
        found.append({name: weight.grad for name, weight in student.named_parameters() if weight.grad is not None})
    assert found[0] and found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("model", ["BPR", "NeuMF", "CDAE", "RecVAE", "MultiVAE", "NNCF", "ConvNCF"])
def test_terms_are_finite_in_half_precision(model: str, tiny_settings: Any, tmp_path: Path) -> None:
    """Mixed precision on a GPU is float16, whose largest number is 65,504."""
    knowledge = knowledge_of("BPR", tiny_settings, tmp_path)
    for fused in (True, False):
        with torch.autocast("cpu", dtype=torch.float16):
            student, terms = one_step(model, tiny_settings, knowledge, fast="all" if fused else "none")
        assert all(0 < term < 1e6 for term in terms.values()), terms
        gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
        assert all(torch.isfinite(part.to_dense() if part.is_sparse else part).all() for part in gradients)


@pytest.mark.parametrize("model", sorted(ADAPTERS))
def test_every_teacher_teaches(model: str, tiny_settings: Any, tmp_path: Path) -> None:
    """A student cannot tell a teacher's kind from the terms: they are positive and finite."""
    skip_without_package(model)
    knowledge = knowledge_of(model, tiny_settings, tmp_path)
    for names, more in ((None, {}), (["listwise"], {"listwise_top_n": 8})):
        _, terms = one_step("BPR", tiny_settings, knowledge, names, **more)
        assert all(0 < term < 1e6 for term in terms.values()), terms


@pytest.mark.parametrize("model", ["NeuMF", "MultiDAE", "NNCF"])
def test_users_of_items_are_scored_as_items_of_users(model: str, tiny_settings: Any) -> None:
    """By every way: pairs, rows, and the network in two halves; values and gradients."""
    config = DistillConfig(model, "tiny", config_dict={**tiny_settings(model), "dropout_prob": 0.0})
    built = build_model(config, prepare_data(config))
    built.eval()
    adapter = adapter_of(built)
    users, items = torch.tensor([[3, 1, 7], [2, 3, 9]]), torch.tensor([5, 11])
    swapped = adapter.score_users(items, users)
    plain = torch.stack([adapter.score(row, item.expand(3, 1))[:, 0] for row, item in zip(users, items)])
    torch.testing.assert_close(swapped, plain, rtol=1e-4, atol=1e-6)
    weights = list(built.parameters())
    for one, other in zip(
        torch.autograd.grad(swapped.sin().sum(), weights, allow_unused=True),
        torch.autograd.grad(plain.sin().sum(), weights, allow_unused=True),
    ):
        assert (one is None) is (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("model", ["BPR", "LightGCN"])
def test_vector_models_score_users_of_items(model: str, fused: bool, tiny_settings: Any) -> None:
    """Few rankings ask for their users, many for all; values and gradients are those of the transposed product."""
    config = DistillConfig(model, "tiny", config_dict=tiny_settings(model))
    adapter = adapter_of(build_model(config, prepare_data(config)))
    adapter.fused = fused
    weights = list(adapter.model.parameters())
    for users, items in (
        (torch.tensor([[3, 1], [2, 3]]), torch.tensor([5, 11])),
        (torch.randint(1, 30, (20, 6)), torch.arange(1, 21)),
    ):
        swapped = adapter.score_users(items, users)
        table = adapter.user_embeddings() @ adapter.item_embeddings().T
        plain = table.T[items].gather(1, users)
        torch.testing.assert_close(swapped, plain, rtol=1e-4, atol=1e-6)
        for one, other in zip(
            torch.autograd.grad(swapped.exp().sum(), weights), torch.autograd.grad(plain.exp().sum(), weights)
        ):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
