"""What a teacher's scores are multiplied by: its rule, what is multiplied, and that it makes teachers of one ranking
alike."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from torch import Tensor

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.distillers.listwise import ListwiseDistillation, ListwiseOptions
from recbole_derrd.distillers.step_batch import StepBatch
from recbole_derrd.errors import OptionError
from recbole_derrd.experiment.plans import Sizes, refining
from recbole_derrd.experiment.preflight import check_run
from recbole_derrd.experiment.teachers import knowledge_of, teachers_of
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.shrinking.budget import Split
from recbole_derrd.shrinking.plan import codebook_settings, coded_settings
from recbole_derrd.teacher import EnsembleKnowledge, GivenTeacher, StoredKnowledge
from recbole_derrd.teacher.score_scale import automatic_scale, best_above_median, spread_of
from recbole_derrd.testing.world import TinyAdapter, TinyModel, history_of, some_rows

Settings = Callable[..., dict[str, Any]]
LISTWISE: dict[str, Any] = {"distillers": ["listwise"], "warm_start": "svd", "embedding_size": 4, "latency_users": 0}


def slow_spread(scores: Tensor) -> float:
    """The mean distance, user by user in Python; the lower of two middle scores is the median."""
    return statistics.fmean(max(row) - statistics.median_low(row) for row in scores.double().tolist())


@given(strategies.integers(0, 1000), strategies.integers(1, 9), strategies.integers(1, 12), strategies.floats(0.01, 99))
def test_the_spread_is_that_of_the_formula(seed: int, users: int, items: int, factor: float) -> None:
    scores = torch.randn(users, items, generator=torch.Generator().manual_seed(seed))
    found = float(best_above_median(scores).mean())
    assert found == pytest.approx(slow_spread(scores), rel=1e-5, abs=1e-6)
    moved = factor * scores + torch.arange(users).unsqueeze(1)
    assert float(best_above_median(moved).mean()) == pytest.approx(factor * found, rel=1e-3, abs=1e-4)


def test_users_without_a_median_score_do_not_count() -> None:
    scores = torch.tensor([[3.0, -math.inf, -math.inf], [5.0, 1.0, -math.inf]])
    assert best_above_median(scores).tolist() == [4.0]
    assert len(best_above_median(scores[:1])) == 0


@given(strategies.floats(1e-6, 1e6))
def test_the_scaled_spread_is_within_the_bounds(spread: float) -> None:
    scale = automatic_scale(spread)
    assert 4 <= scale * spread <= 10
    assert scale == 1 or not 4 <= spread <= 10
    assert automatic_scale(scale * spread) == 1


@pytest.mark.parametrize("spread", [0.0, math.nan, math.inf])
def test_scores_without_a_spread_stay(spread: float) -> None:
    assert automatic_scale(spread) == 1


def test_a_teachers_spread_leaves_the_padding_item_out() -> None:
    teacher = TinyAdapter(TinyModel(400, 30, 5, seed=4))
    with torch.no_grad():
        teacher.model.items.weight[0] = 1e6
        teacher.model.users.weight[0] = 1e6
    wanted = slow_spread((teacher.model.users.weight @ teacher.model.items.weight.T)[1:, 1:])
    assert spread_of(teacher) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("items", [3, 12, 29])
def test_what_a_teacher_does_not_know_is_not_in_its_spread(items: int) -> None:
    """Unknown items have no score, and unknown users none at all."""
    teacher = TinyAdapter(TinyModel(40, 30, 5, seed=4))
    scores = (teacher.model.users.weight @ teacher.model.items.weight.T).detach()
    known = {"user": torch.arange(40) % 3 == 0, "item": torch.arange(30) > 29 - items}
    scores[~known["user"]] = -torch.inf
    scores[:, ~known["item"]] = -torch.inf
    teacher.score_all = lambda users: scores[users]  # type: ignore[method-assign, assignment]
    wanted = slow_spread(scores[3::3, -items:])
    assert spread_of(teacher, {side: mask.numpy() for side, mask in known.items()}) == pytest.approx(wanted, rel=1e-5)
    assert math.isnan(spread_of(teacher, {"item": np.zeros(30, dtype=bool)}))


def test_a_teacher_of_short_lists_is_said_to_have_no_spread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its median item is in no list."""
    knowledge = knowledge_times(tmp_path, 30.0, None)
    scores = torch.full((9, 30), -torch.inf)
    scores[:, 1:11] = torch.randn(9, 10)
    knowledge.teacher.score_all = lambda users: scores[users]  # type: ignore[method-assign]
    assert knowledge.score_scale == 1
    assert "teacher_scale: auto has no effect: the teacher scores too few items" in caplog.text


def knowledge_times(folder: Path, factor: float, scale: float | None) -> StoredKnowledge:
    """Knowledge of a tiny teacher whose scores are multiplied by a factor, times a scale."""
    teacher = TinyAdapter(TinyModel(9, 30, 5, seed=2))
    with torch.no_grad():
        teacher.model.users.weight *= factor
    history = history_of(some_rows(8, 30, 6), 30)
    source = GivenTeacher(lambda: teacher, ("embedding",))
    return StoredKnowledge(folder / f"{factor}-{scale}", source, history, score_scale=scale)


def test_all_scores_are_multiplied_and_nothing_else(tmp_path: Path) -> None:
    plain, scaled = (knowledge_times(tmp_path, 1.0, scale) for scale in (1.0, 3.0))
    asked = torch.tensor([1, 5]), torch.tensor([[2, 7], [9, 1]])
    torch.testing.assert_close(scaled.scores(*asked), 3 * plain.scores(*asked))
    np.testing.assert_allclose(scaled.top_scores(5), 3 * plain.top_scores(5))
    products = [users @ items.T for users, items in (plain.score_embeddings(), scaled.score_embeddings())]
    np.testing.assert_allclose(products[1], 3 * products[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(scaled.top_items(5), plain.top_items(5))
    for side in ("user", "item"):
        np.testing.assert_array_equal(scaled.embeddings(side), plain.embeddings(side))


@pytest.mark.parametrize("factor", [1e-3, 0.01, 30.0])
@pytest.mark.parametrize("options", [{}, {"top_n": 6}, {"items": "teacher", "k": 6}])
def test_teachers_of_one_ranking_teach_alike(tmp_path: Path, factor: float, options: dict[str, Any]) -> None:
    losses = []
    for times in (factor, 50 * factor):
        knowledge = knowledge_times(tmp_path, times, None)
        assert knowledge.score_scale * spread_of(knowledge.teacher) == pytest.approx(5, rel=1e-4)
        student = TinyAdapter(TinyModel(9, 30, 3, seed=1))
        distiller = ListwiseDistillation(ListwiseOptions(**options), knowledge, student, 1)
        distiller.begin_epoch(0)
        users = torch.arange(1, 9)
        none = torch.zeros(0, dtype=torch.int64)
        losses.append(distiller(StepBatch(users=users, positives=none, negatives=none, rows=8)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_teacher_without_embeddings_is_scaled_as_well(tmp_path: Path) -> None:
    """The softmax over the catalogue then reads the teacher's own scores."""
    losses = []
    for embedded in (True, False):
        knowledge = knowledge_times(tmp_path, 1.0, 0.3)
        student = TinyAdapter(TinyModel(9, 30, 3, seed=1))
        distiller = ListwiseDistillation(ListwiseOptions(), knowledge, student, 1)
        if not embedded:
            distiller.embeddings = None
        none = torch.zeros(0, dtype=torch.int64)
        losses.append(distiller(StepBatch(users=torch.arange(1, 9), positives=none, negatives=none, rows=8)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.fixture
def exports(tiny_settings: Settings, tmp_path: Path) -> dict[float, str]:
    """One teacher as files, and the same with a thousand times its scores."""
    data = prepare_data(DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR")))
    users, items = (data.dataset.field2id_token[field] for field in ("user_id", "item_id"))
    random = np.random.default_rng(5)
    left, right = random.normal(size=(len(users) - 1, 6)), random.normal(size=(len(items) - 1, 6))
    files = {}
    for factor in (0.02, 20.0):
        files[factor] = str(tmp_path / f"times-{factor}.npz")
        np.savez(
            files[factor],
            user_ids=users[1:].astype(str), item_ids=items[1:].astype(str),
            user_embeddings=(factor * left).astype(np.float32), item_embeddings=right.astype(np.float32),
        )  # fmt: skip
    return files


@pytest.mark.whole_run
def test_whole_runs_from_teachers_of_one_ranking_end_alike(tiny_settings: Settings, exports: dict[float, str]) -> None:
    settings = tiny_settings("BPR", **LISTWISE, compare_student=False, teacher_trusted=True)
    items: dict[Any, Any] = {}
    files = set()
    for scale in ("auto", 1.0):
        for factor, file in exports.items():
            more = {**settings, "teacher_export": file, "teacher_scale": scale}
            record = run_recbole_derrd("BPR", "tiny", config_dict=more)
            assert record["options"].get("teacher_scale") == (None if scale == 1 else "auto")
            content = torch.load(record["checkpoints"]["student"], weights_only=False)
            items[scale, factor] = content["state_dict"]["item_embedding.weight"][1:]
            files.add(record["checkpoints"]["student"])
    assert len(files) == 4
    torch.testing.assert_close(items["auto", 0.02], items["auto", 20.0], rtol=1e-2, atol=1e-3)
    assert (items[1.0, 0.02] - items[1.0, 20.0]).abs().mean() > 0.1


@pytest.mark.whole_run
def test_a_start_has_the_scaled_scores(tiny_settings: Settings, exports: dict[float, str]) -> None:
    spreads = []
    for scale in ("auto", 0.5):
        keys = tiny_settings("BPR", **LISTWISE, teacher_trusted=True, teacher_export=exports[20.0], teacher_scale=scale)
        config = DistillConfig("BPR", "tiny", config_dict=keys)
        data = prepare_data(config)
        knowledge = knowledge_of(config, teachers_of(config, data), data)
        spreads.append((knowledge.score_scale, spread_of(knowledge.teacher)))
    assert spreads[0][0] * spreads[0][1] == pytest.approx(5) and spreads[1][0] == 0.5


@pytest.mark.parametrize(
    ("distillers", "start", "read"),
    [(["de"], "none", False), (["rrd"], "none", False), (["listwise"], "none", True), (["rrd"], "svd", True)],
)
def test_a_scale_that_nothing_reads_is_refused(
    tiny_settings: Settings, distillers: list[str], start: str, read: bool, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tiny_settings(
        "BPR", distillers=distillers, warm_start=start, embedding_size=4, teacher={"embedding_size": 8}
    )
    typed = DistillConfig("BPR", "tiny", None, keys, ["--teacher_scale=auto"])
    if read:
        check_run(typed)
        return
    with pytest.raises(OptionError, match=f"teacher_scale has no effect: {distillers[0]} read no scores"):
        check_run(typed)
    check_run(DistillConfig("BPR", "tiny", config_dict={**keys, "teacher_scale": "auto"}))
    assert "teacher_scale has no effect" in caplog.text


@pytest.mark.parametrize("value", [0, -1, "automatic", True, "nan"])
def test_a_scale_is_a_number_above_zero_or_auto(tiny_settings: Settings, value: Any) -> None:
    with pytest.raises(OptionError, match="teacher_scale"):
        DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **LISTWISE, teacher_scale=value))


@pytest.mark.whole_run
def test_an_ensembles_scores_stay_and_a_start_is_at_its_scaled_member(tiny_settings: Settings) -> None:
    teachers = [{"model": "BPR", "embedding_size": size} for size in (6, 8)]
    keys = tiny_settings("BPR", **LISTWISE, teachers=teachers, ensemble_top_n=40, teacher_scale="auto")
    config = DistillConfig("BPR", "tiny", config_dict=keys)
    data = prepare_data(config)
    knowledge = knowledge_of(config, teachers_of(config, data), data)
    assert isinstance(knowledge, EnsembleKnowledge) and knowledge.score_scale == 1
    starter = knowledge.members[knowledge.ensemble.starter or 0]
    users, items = knowledge.score_embeddings()
    assert best_above_median(torch.from_numpy((users @ items.T)[1:, 1:])).mean() == pytest.approx(5, rel=0.05)
    assert spread_of(starter.teacher) < 4


@pytest.mark.parametrize("teacher", [64, None])
@pytest.mark.parametrize("interactions", [1_000, 1_000_000])
def test_trainings_that_nobody_tunes_find_the_scale(teacher: int | None, interactions: int) -> None:
    sizes = Sizes(5_000, 3_000, interactions, teacher)
    for plan in (refining(sizes), coded_settings(sizes, Split(20, 2)), codebook_settings(sizes, 4, 20)):
        assert plan["teacher_scale"] == "auto"
