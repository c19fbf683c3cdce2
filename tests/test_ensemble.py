"""Several teachers: the ensemble against a slow reference, one after another in memory, in a run, and refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import run_table

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import DistillError, OptionError
from recbole_derrd.experiment.teachers import evaluated, knowledge_of, teachers_of
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.student.model import build_student
from recbole_derrd.teacher import EnsembleKnowledge, RankWeighting, Teacher, ensemble_model, teacher_specs

pytestmark = pytest.mark.whole_run

Settings = Callable[..., dict[str, Any]]
TEACHERS = [{"model": "BPR", "embedding_size": 16}, {"model": "ItemKNN", "k": 5}, {"model": "LightGCN", "n_layers": 1}]
RRD = {"distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8}


def several(settings: dict[str, Any], **more: Any) -> tuple[DistillConfig, Any, list[Teacher], EnsembleKnowledge]:
    given = {"epochs": 3, "teachers": TEACHERS, "ensemble_top_n": 10, **RRD, **more}
    config = DistillConfig("BPR", "tiny", config_dict={**settings, **given})
    data = prepare_data(config)
    teachers = teachers_of(config, data)
    knowledge = knowledge_of(config, teachers, data)
    assert isinstance(knowledge, EnsembleKnowledge)
    return config, data, teachers, knowledge


def slow_scores(rankings: list[list[int]], n_items: int, rank_weighting: RankWeighting, listed: int) -> list[float]:
    """G of one user by loops: what is unlisted stands at rank N + 1."""
    scores = [0.0] * n_items
    for items in rankings:
        for rank, item in enumerate(items, start=1):
            if item:
                if rank_weighting.kind == "power":
                    scores[item] += rank**-rank_weighting.power - (listed + 1) ** -rank_weighting.power
                else:
                    scores[item] += float(np.exp(-rank / rank_weighting.decay))
    return scores


@pytest.mark.parametrize("kind", ["power", "exponential"])
def test_the_scores_are_those_of_the_formula(tiny_settings: Settings, kind: str) -> None:
    _, data, _, knowledge = several(tiny_settings("BPR"), ensemble_weighting=kind)
    users = torch.arange(1, data.history.n_users)
    found = knowledge.teacher.score_all(users)
    rankings = [member.top_items(10) for member in knowledge.members]
    for user in users.tolist():
        rows = [array[user].tolist() for array in rankings]
        wanted = torch.tensor(slow_scores(rows, data.history.n_items, RankWeighting(kind), 10)).log()
        torch.testing.assert_close(found[user - 1], wanted.float(), rtol=1e-4, atol=1e-5)
    top = knowledge.top_items(6)
    order = found.argsort(dim=1, descending=True, stable=True)[:, :6]
    torch.testing.assert_close(
        found.gather(1, torch.from_numpy(top[1:]).long()), found.gather(1, order), rtol=0, atol=0
    )
    for user in users.tolist():
        assert not set(data.history.items[slice(*data.history.indptr[user : user + 2])]) & set(top[user].tolist())


@given(st.integers(2, 400), st.floats(0.01, 2))
def test_importance_falls_with_the_rank_and_is_nothing_behind_the_list(listed: int, power: float) -> None:
    weights = RankWeighting("power", power).of_ranking(listed).double()
    assert (weights.diff() < 0).all() and weights[-1] > 0
    assert RankWeighting("power", power).of_ranks(torch.tensor([listed + 1]), listed).item() == pytest.approx(
        0, abs=1e-7
    )
    # Up to the constant it is the whole catalogue's.
    whole = RankWeighting("power", power).of_ranks(torch.arange(1, listed + 1)).double()
    torch.testing.assert_close(weights - weights[0], whole - whole[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("power", [1e-9, 0.05, 1.0, 10.0])
def test_power_importance(power: float) -> None:
    """r^-p - (N + 1)^-p; positive and falling however flat or steep."""
    weights = RankWeighting(power=power).of_ranking(6)
    expected = [rank**-power - 7.0**-power for rank in range(1, 7)]
    assert weights.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-15)
    assert (weights > 0).all() and (weights.diff() < 0).all()


def test_exponential_importance() -> None:
    expected = [math.exp(-rank / 2.5) for rank in range(1, 5)]
    assert RankWeighting("exponential", decay=2.5).of_ranking(4).tolist() == pytest.approx(expected)


def test_vectors_are_those_of_the_best_teacher_that_has_any(tiny_settings: Settings) -> None:
    _, _, teachers, knowledge = several(tiny_settings("BPR"))
    scores = [teacher.trained.valid["ndcg@5"] for teacher in teachers]
    best = 0 if scores[0] >= scores[2] else 2
    assert knowledge.ensemble.leader == best and knowledge.teacher_hints == knowledge.members[best].teacher_hints
    assert np.array_equal(knowledge.embeddings("item"), knowledge.members[best].embeddings("item"))


def test_neighbours_are_the_best_teachers_and_lie_with_it(tiny_settings: Settings) -> None:
    """Beside the ensemble's rankings they would be found again when another teacher has come to lead."""
    _, _, _, knowledge = several(tiny_settings("BPR"))
    leader = knowledge.members[knowledge.ensemble.leader or 0]
    found = knowledge.neighbours("item", 3, 150)
    assert (found == leader.neighbours("item", 3, 150)).all()
    assert list(leader.folder.glob("item-neighbours-*")) and not list(knowledge.folder.glob("item-neighbours-*"))


def test_one_teacher_is_in_memory_at_a_time(tiny_settings: Settings) -> None:
    _, _, teachers, knowledge = several(tiny_settings("BPR"))
    assert all(teacher._data is None for teacher in teachers), "nor are the data of all"
    for ask in (lambda: knowledge.top_items(5), lambda: knowledge.trajectories(5), knowledge.observed_ranks):
        ask()
        assert all(not member.teacher_loaded for member in knowledge.members)
        assert all(teacher._data is None for teacher in teachers)


def test_lists_longer_than_the_teachers_own_are_refused(tiny_settings: Settings) -> None:
    _, _, _, knowledge = several(tiny_settings("BPR"))
    with pytest.raises(OptionError, match="ensemble_top_n to 11"):
        knowledge.top_items(11)


def test_among_candidates_the_teachers_rank_the_candidates(tiny_settings: Settings) -> None:
    mode = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "fixed9"}
    config, data, teachers, knowledge = several(tiny_settings("BPR", eval_args=mode))
    model = knowledge.ensemble.model(among_candidates=True)
    users, items = torch.tensor([3, 7]), torch.tensor([[5, 9, 2, 30, 0], [1, 8, 4, 12, 40]])
    found = model.candidate_scores(users, items)
    rank_weighting = RankWeighting()
    for row, user in enumerate(users.tolist()):
        total = np.zeros(5)
        for member in knowledge.members:
            scores = member.teacher.score(torch.tensor([user]), items[row : row + 1])[0].tolist()
            scores = [-np.inf if item == 0 else score for item, score in zip(items[row].tolist(), scores)]
            for place, own in enumerate(scores):
                total[place] += sum(score >= own for score in scores) ** -rank_weighting.power
        torch.testing.assert_close(found[row], torch.from_numpy(total).log().float(), rtol=1e-5, atol=1e-6)
    ensemble = evaluated(config, teachers, knowledge, data)
    assert 0 < ensemble.test["ndcg@5"] <= 1


def test_a_run_with_three_teachers(tiny_settings: Settings, tmp_path: Path) -> None:
    settings = tiny_settings("BPR", epochs=3, teachers=TEACHERS, ensemble_top_n=10, **RRD)
    settings.update(distillers=["rrd", "de"], de_num_experts=2, record_dir=str(tmp_path / "records"), latency_users=3)
    record = run_recbole_derrd("BPR", "tiny", config_dict=settings)
    stored = json.loads(Path(record["path"]).read_text(encoding="utf-8"))
    assert [one["model"] for one in stored["teachers"]] == ["BPR", "ItemKNN", "LightGCN"]
    for number in ("params", "bytes"):
        assert stored["teacher"][number] == sum(one[number] for one in stored["teachers"]) > 0
    assert stored["teacher"]["latency"]["p50_ms"] == pytest.approx(
        sum(one["latency"]["p50_ms"] for one in stored["teachers"])
    )
    assert stored["gap_recovered"] is not None and len(stored["checkpoints"]["teachers"]) == 3
    table = run_table(stored)
    assert "Teacher 3" in table and "All teachers" in table and "Ensemble" in table
    again = run_recbole_derrd("BPR", "tiny", config_dict=settings)
    assert again["teacher"]["found"] and all(one["found"] for one in again["teachers"])
    assert again["distilled"]["test"] == record["distilled"]["test"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"teachers": ["BPR", {"model": "BPRR"}]}, "BPRR"),
        ({"teachers": ["BPR", 3]}, "number 2 is 3"),
        ({"teachers": ["BPR", "BPR"]}, "given twice"),
        ({"teachers": ["BPR", {"model": "BPR"}]}, "given twice.*split_seed"),
        ({"teachers": ["BPR", "Pop"], "distillers": ["de"], "de_hint": "last"}, r"BPR has no hint layer 'last' \(de_h"),
        ({"teachers": ["BPR", "Pop"], "distillers": ["de"], "de_teacher_hint": "last"}, r"BPR or Pop .*\(de_teacher_h"),
        (
            {"teachers": ["BPR", {"model": "LightGCN", "embeding_size": 3}]},
            "number 2 of 'teachers'. Did you mean",
        ),
        ({"teachers": [{"model": "BPR", "metrics": ["MRR"]}, "Pop"]}, "must be the same"),
        ({"teachers": [{"model": "BPR", "rrd_k": 3}, "Pop"]}, "option of the run"),
        ({"teachers": ["BPR", "Pop"], "teacher_model": "BPR"}, "take one of them out"),
        ({"teachers": ["Pop", "EASE"], "distillers": ["de"]}, "Pop or EASE has none"),
        ({"teachers": ["BPR", {"checkpoint": "nowhere.pth"}]}, "no checkpoint file"),
        ({"teachers": ["BPR", {"model": 3}]}, "must be a text"),
        ({"teachers": ["BPR", "Pop"], "ensemble_top_n": 7}, "set ensemble_top_n to 8 or more, or lower rrd_top_n"),
        (
            {"teachers": ["BPR", "Pop"], "ensemble_top_n": 7, "distillers": ["rd"], "rd_k": 9},
            "set ensemble_top_n to 9 or more, or lower rd_k",
        ),
        (
            {
                "teachers": ["BPR", "Pop"],
                "ensemble_top_n": 7,
                "distillers": ["listwise"],
                "listwise_k": 9,
                "listwise_items": "teacher",
            },
            "set ensemble_top_n to 9 or more, or lower listwise_k",
        ),
    ],
)
def test_mistakes_end_with_a_sentence(tiny_settings: Settings, more: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillError, match=words):
        run_recbole_derrd("BPR", "tiny", config_dict={**tiny_settings("BPR"), **RRD, **more})


def test_hetcomp_asks_nothing_of_the_ensembles_lists(tiny_settings: Settings) -> None:
    """It merges its teachers' own, which are hetcomp_top_n long."""
    more = {"distillers": ["hetcomp"], "hetcomp_k": 5, "hetcomp_top_n": 20, "hetcomp_discrepancy_k": 5, "epochs": 1,
            "latency_users": 0}  # fmt: skip
    settings = {**tiny_settings("BPR"), **more, "teachers": ["BPR", "Pop"]}
    found = [run_recbole_derrd("BPR", "tiny", config_dict={**settings, "ensemble_top_n": one}) for one in (7, 30)]
    assert found[0]["distilled"]["test"] == found[1]["distilled"]["test"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"teachers": ["BPR", "Pop", {"model": "BPR", "seed": 7}]}, "Teacher 3 of 3: .*data are not.*split_seed"),
        ({"teachers": ["LightGCN", "BPR", {"model": "BPR", "embedding_size": 8}]}, "Teachers 2 and 3 are the same BPR"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_any_is_trained(
    tiny_settings: Settings, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(DistillError, match=words):
        run_recbole_derrd("BPR", "tiny", config_dict={**tiny_settings("BPR"), **RRD, **more})
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize(
    ("interval", "words"),
    [(1, "all users are at the teachers' last snapshots (epoch"), (9, "training ended before all users had come to")],
)
@pytest.mark.slow
def test_the_log_says_how_far_the_schedule_came(
    tiny_settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, interval: int, words: str
) -> None:
    small = {"hetcomp_k": 6, "hetcomp_top_n": 6, "hetcomp_discrepancy_k": 6}
    settings = tiny_settings("BPR", epochs=8, stopping_step=20, learning_rate=0.01, state="INFO", latency_users=0)
    run = {
        **settings,
        **small,
        "record_dir": str(tmp_path),
        "distillers": ["hetcomp"],
        "hetcomp_interval": interval,
        "hetcomp_alpha": 0.1,
    }
    caplog.set_level("INFO")
    run_recbole_derrd("BPR", "tiny", config_dict={**run, "teachers": ["MultiVAE", "Pop"]})
    assert words in caplog.text


def test_brought_teachers_are_looked_at_before_any_is_trained(tiny_settings: Settings, tmp_path: Path) -> None:
    settings = {**tiny_settings("BPR"), **RRD, "compare_student": False, "record_dir": str(tmp_path / "records")}
    first = run_recbole_derrd("BPR", "tiny", config_dict={**settings, "seed": 7})
    known = sorted(tmp_path.rglob("*.pth"))
    brought = {"checkpoint": first["checkpoints"]["teacher"]}
    with pytest.raises(DistillError, match=r"Teacher 2 of 2: .*was not trained on this run's data"):
        run_recbole_derrd("BPR", "tiny", config_dict={**settings, "teachers": ["LightGCN", brought]})
    with pytest.raises(DistillError, match="Teachers 1 and 3 are the same BPR"):
        teachers = [brought, "LightGCN", {**brought, "model": "BPR"}]
        run_recbole_derrd("BPR", "tiny", config_dict={**settings, "seed": 7, "teachers": teachers})
    assert sorted(tmp_path.rglob("*.pth")) == known


def test_unlisted_items_are_judged_behind_the_listed_and_before_the_hidden(tiny_settings: Settings) -> None:
    """RecBole hides items by -inf; GAUC counts the others by it, and its ranks need an order."""
    metrics = {"metrics": ["NDCG", "GAUC"], "ensemble_top_n": 3}
    config, data, teachers, knowledge = several(tiny_settings("BPR"), **metrics, rrd_top_n=3, rrd_k=2)
    model = knowledge.ensemble.model()
    users = torch.arange(1, data.history.n_users)
    judged_scores, logits = model.full_sort_predict({"user_id": users}), model.listed_scores(users).view(-1)
    assert judged_scores.isfinite().all() and logits.isinf().any()
    assert torch.equal(judged_scores[logits.isfinite()], logits[logits.isfinite()])
    shares = []
    indptr, seen = data.history.indptr, data.history.items
    test = data.test._dataset
    for user in users.tolist():
        hidden = {0, *seen[indptr[user] : indptr[user + 1]].tolist()}
        hidden |= set(
            data.valid._dataset.inter_feat["item_id"][data.valid._dataset.inter_feat["user_id"] == user].tolist()
        )
        own = judged_scores.view(len(users), -1)[user - 1]
        good = test.inter_feat["item_id"][test.inter_feat["user_id"] == user].tolist()
        others = [item for item in range(data.history.n_items) if item not in hidden and item not in good]
        if good:
            pairs = [(own[i] > own[j]).item() + 0.5 * (own[i] == own[j]).item() for i in good for j in others]
            shares.append((sum(pairs), len(others)))
    found = evaluated(config, teachers, knowledge, data).test["gauc"]
    assert found == pytest.approx(sum(share for share, _ in shares) / sum(count for _, count in shares), abs=2e-3)


def test_pairs_are_judged_some_users_at_a_time(tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, _, knowledge = several(tiny_settings("BPR"))
    model = knowledge.ensemble.model()
    draw = torch.Generator().manual_seed(0)
    pairs = {
        name: torch.randint(1, count, (500,), generator=draw) for name, count in (("user_id", 31), ("item_id", 41))
    }
    expected = model.full_sort_predict({"user_id": pairs["user_id"]}).view(500, -1)
    sizes: list[int] = []
    stock = model.listed_scores
    monkeypatch.setattr(ensemble_model, "_PAIR_SCORES", 4 * data.history.n_items)
    monkeypatch.setattr(model, "listed_scores", lambda users: sizes.append(len(users)) or stock(users))
    found = model.predict(pairs)
    assert torch.equal(found, expected.gather(1, pairs["item_id"].view(-1, 1)).view(-1)) and max(sizes) == 4


@pytest.mark.parametrize("first", ["RecVAE", "NCL"])
def test_a_first_teacher_with_a_trainer_of_its_own(tiny_settings: Settings, first: str) -> None:
    if first == "NCL":
        pytest.importorskip("faiss")
    small = {"RecVAE": {"hidden_dimension": 12, "latent_dimension": 8, "n_enc_epochs": 1}}
    own = {"model": first, **small.get(first, {"num_clusters": 4, "warm_up_step": 9, "n_layers": 1})}
    config, data, teachers, knowledge = several(tiny_settings("BPR"), teachers=[own, "Pop"], epochs=1)
    assert 0 <= evaluated(config, teachers, knowledge, data).test["ndcg@5"] <= 1


def test_what_an_approximate_search_has_found_is_another_ensemble(tiny_settings: Settings) -> None:
    pytest.importorskip("faiss")
    able = {"teachers": ["BPR", {"model": "LightGCN", "n_layers": 1}]}
    keys = {
        several(tiny_settings("BPR"), knowledge_search=search, **able)[3].ensemble.key for search in ("exact", "faiss")
    }
    assert len(keys) == 2


def test_what_takes_one_teacher_says_so(tiny_settings: Settings) -> None:
    config, data, _, _ = several(tiny_settings("BPR"))
    with pytest.raises(OptionError, match="takes one teacher"):
        Teacher.of(config, data)


def test_what_all_teachers_share_is_not_said_of_a_brought_one() -> None:
    """A checkpoint has settings of its own, and its weights the shapes of those."""
    options = {"teacher": {"embedding_size": 64, "epochs": 3}, "distillers": ["rrd"]}
    teachers = ["BPR", {"checkpoint": "x.pth"}, {"model": "LightGCN", "embedding_size": 8}]
    config = DistillConfig("BPR", "ml-100k", config_dict={**options, "teachers": teachers})
    assert [spec.settings for spec in teacher_specs(config)] == [
        {"embedding_size": 64, "epochs": 3}, {}, {"embedding_size": 8, "epochs": 3}
    ]  # fmt: skip


def test_the_item_side_leaves_out_items_that_few_users_list(tiny_settings: Settings) -> None:
    """Who does not list an item has no place in its ranking: users in the order of their ids would teach nothing."""
    sizes = {"ir_rrd_k": 2, "ir_rrd_l": 2, "ir_rrd_top_n": 5, "ir_rrd_item_k": 7, "ir_rrd_item_l": 2}
    more = {"distillers": ["ir_rrd"], **sizes, "ir_rrd_item_top_n": 10}
    config, data, _, knowledge = several(tiny_settings("BPR"), ensemble_top_n=5, **more)
    students = build_student(config, data, knowledge)
    (distiller,) = students.distillers
    students.begin_epoch(0)
    scores = torch.full((data.history.n_users, data.history.n_items), -torch.inf)
    for user in range(1, data.history.n_users):
        listed = knowledge.ensemble.model().listed_scores(torch.tensor([user]))[0]
        scores[user] = listed
        scores[user, data.history.items[data.history.indptr[user] : data.history.indptr[user + 1]]] = -torch.inf
    listing = (scores > -torch.inf).sum(dim=0)
    assert torch.equal(distiller.ranked[1:], listing[1:] >= 7)
    assert distiller.ranked.any() and not distiller.ranked[1:].all(), "the world must have both kinds"
    taught = distiller.items_of(torch.arange(1, data.history.n_users))
    assert len(taught) and (listing[taught] >= 7).all()
    users = distiller.item_side.items[taught, :7].long()
    assert (scores[users, taught.unsqueeze(1)] > -torch.inf).all(), "each of the interesting users rankings the item"
