"""The metrics of stock RecBole, to the last bit, from the same scores: its loaders, trainer and collector beside ours.

A model that does not learn, with few distinct scores, meets small random data with repeated rows in random settings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset, data_preparation
from recbole.evaluator import Collector
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.trainer import Trainer
from recbole.utils import InputType, init_seed
from stock import stock_config

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.evaluation.collector import _best_items
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.training.trainer import trainer_for

pytestmark = pytest.mark.whole_run

RANKING = ["NDCG", "Recall", "MRR", "Hit", "Precision", "MAP"]
#: Metrics of the items that are recommended, of which four fail in stock RecBole's collector.
ITEMS = ["ItemCoverage", "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage"]
VALUE = ["AUC", "LogLoss", "RMSE", "MAE"]

#: Scores that models may give; RecBole's value metrics refuse what is not finite.
FINITE = {"constant": (0.5,), "binary": (0.0, 1.0), "few": (-1.0, 0.0, 0.25, 2.0), "many": tuple(np.arange(997) / 997)}
LEVELS = {
    **FINITE,
    "nan": (0.0, float("nan"), 1.0),
    "minus infinity": (-float("inf"), 0.0, 1.0),
    "no number": (float("nan"),),
}


class Table(GeneralRecommender):
    """Scores drawn once from few values."""

    input_type = InputType.PAIRWISE
    levels: tuple[float, ...] = (0.0, 1.0)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        generator = torch.Generator().manual_seed(int(config["seed"]))
        drawn = torch.randint(len(self.levels), (self.n_users, self.n_items), generator=generator)
        self.scores = torch.nn.Parameter(torch.tensor(self.levels, dtype=torch.float32)[drawn])

    def predict(self, interaction: Any) -> torch.Tensor:
        return self.scores[interaction[self.USER_ID], interaction[self.ITEM_ID]]

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        return self.scores[interaction[self.USER_ID]].view(-1)


class Mended(Collector):
    """Stock, but for numbers, of which it asks ``.cpu()``; nothing is collected in another way."""

    def get_data_struct(self) -> Any:
        content = self.data_struct._data_dict
        plain = {key: content.pop(key) for key in list(content) if not isinstance(content[key], torch.Tensor)}
        collected = super().get_data_struct()
        content.update(plain)
        collected._data_dict.update(plain)
        return collected


class NoBoard:
    """Stands for TensorBoard, whose files would take most of the time."""

    log_dir = "none"

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stock RecBole reads the process's arguments, and both write TensorBoard files."""
    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setattr("recbole.trainer.trainer.get_tensorboard", lambda logger: NoBoard())
    yield
    Table.levels = (0.0, 1.0)


def rows_of(seed: int, n_users: int, n_items: int, per_user: int, repeated: float) -> list[tuple[int, int, int, int]]:
    """Draw (user, item, rating, time) rows; a share of them stands twice or more, as one user may have one row."""
    draw = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int]] = []
    for user in range(n_users):
        # A user has at most all items but two, so that there is something to draw against.
        items = draw.permutation(n_items)[: min(n_items - 2, int(draw.integers(3, per_user + 1)))]
        for item in items:
            times = 1 + int(draw.random() < repeated) * int(draw.integers(1, 3))
            rows += [(user, int(item), int(draw.integers(1, 6)), int(draw.integers(0, 9))) for _ in range(times)]
    # Each item occurs, so that the catalogue is as large as it says.
    present = {item for _, item, _, _ in rows}
    rows += [(n_users, item, 3, 5) for item in range(n_items - 2) if item not in present]
    rows += [(n_users + 1, item, 3, 5) for item in (n_items - 2, n_items - 1) if item not in present]
    return [rows[place] for place in draw.permutation(len(rows))]


def written(folder: Path, rows: list[tuple[int, int, int, int]], name: str = "small") -> None:
    (folder / "small").mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"u{user}\ti{item}\t{rating}\t{time}" for user, item, rating, time in rows]
    (folder / "small" / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


def common(folder: Path, **more: Any) -> dict[str, Any]:
    base = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]},
        "epochs": 1,
        "metrics": RANKING,
        "topk": [1, 2],
        "valid_metric": "NDCG@1",
        "metric_decimal_place": 17,
        "show_progress": False,
        "state": "ERROR",
    }
    return {**base, **more}


def copied(value: Any) -> Any:
    """RecBole writes into the settings that it is given."""
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    return list(value) if isinstance(value, list) else value


def by_stock(given_settings: dict[str, Any]) -> tuple[Any, ...]:
    config = stock_config(Table, "small", config_dict=copied(given_settings))
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    trainer = Trainer(config, Table(config, train.dataset))
    trainer.eval_collector = Mended(config)
    trainer.eval_collector.data_collect(train)
    return evaluated(trainer, valid, test)


def by_us(given_settings: dict[str, Any], fast: Any = "auto") -> tuple[Any, ...]:
    config = DistillConfig(Table, "small", config_dict={**copied(given_settings), "fast": fast})
    data = prepare_data(config)
    trainer = trainer_for(config, build_model(config, data))
    trainer.eval_collector.data_collect(data.train)
    return evaluated(trainer, data.valid, data.test)


def evaluated(trainer: Any, valid: Any, test: Any) -> tuple[Any, ...]:
    """Return the metrics of both splits, twice for what is drawn anew, and where the random stream ends."""
    found = [trainer.evaluate(split, load_best_model=False) for split in (valid, test, valid)]
    return (*[{key: repr(float(value)) for key, value in one.items()} for one in found], np.random.randint(1 << 30))


MODES = ("full", "uni1", "uni3", "uni20", "pop4")
SPLITS = (
    {"split": {"RS": [6, 2, 2]}, "order": "RO", "group_by": "user"},
    {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": None},
    {"split": {"LS": "valid_and_test"}, "order": "RO", "group_by": "user"},
    {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "none"},
)


@st.composite
def experiments(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data and settings."""
    n_items = draw(st.integers(5, 14))
    data = {
        "seed": draw(st.integers(0, 10**6)),
        "n_users": draw(st.integers(4, 10)),
        "n_items": n_items,
        "per_user": draw(st.integers(4, 12)),
        "repeated": draw(st.sampled_from([0.0, 0.5, 1.0])),
    }
    value = draw(st.integers(0, 4)) == 0
    modes = [draw(st.sampled_from([mode for mode in MODES if not (value and mode == "full")])) for _ in range(2)]
    topk = sorted(draw(st.sets(st.integers(1, n_items), min_size=1, max_size=3)))
    kinds = [RANKING, [*RANKING, *ITEMS], ["GAUC"], [*RANKING, "GAUC", *ITEMS], ITEMS]
    given_settings = {
        "seed": draw(st.integers(0, 100)),
        "metrics": VALUE if value else draw(st.sampled_from(kinds)),
        "topk": topk,
        "metric_decimal_place": draw(st.sampled_from([1, 4, 17])),
        "eval_batch_size": draw(st.sampled_from([1, 20, 4096])),
        "repeatable": draw(st.booleans()),
        "eval_args": {"mode": dict(zip(("valid", "test"), modes)), **draw(st.sampled_from(SPLITS))},
        "levels": draw(st.sampled_from(list(FINITE if value else LEVELS))),
    }
    first = given_settings["metrics"][0]
    given_settings["valid_metric"] = first if value or first == "GAUC" else f"{first}@{topk[0]}"
    return data, given_settings


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(experiments())
def test_metrics_are_those_of_stock(tmp_path_factory: pytest.TempPathFactory, experiment: Any) -> None:
    data, more = experiment
    folder = tmp_path_factory.mktemp("small")
    written(folder, rows_of(**data))
    more = dict(more)
    Table.levels = LEVELS[more.pop("levels")]
    own = common(folder, **more)
    assert by_us(own) == by_stock(own)


def labelled(n_users: int = 6, n_items: int = 9, seed: int = 0) -> list[tuple[int, int, int, int]]:
    return rows_of(seed, n_users, n_items, 7, 0.5)


@pytest.mark.parametrize("mode", ["uni5", "pop5"])
@pytest.mark.parametrize("fast", ["auto", "all"])
def test_an_item_that_a_user_has_twice_counts_once(tmp_path: Path, mode: str, fast: str) -> None:
    """Recall is of distinct held-out items: three rows of one item that is found are a recall of 1, not of 1/3."""
    sizes = ("train", "valid", "test")
    names = [f"small.{name}" for name in sizes]
    written(tmp_path, [(user, item, 3, 1) for user in range(3) for item in range(user, user + 5)], names[0])
    for name in names[1:]:
        written(tmp_path, [(user, 8 + user, 3, 1) for user in range(3) for _ in range(3)], name)
    Table.levels = FINITE["constant"]
    more = {"benchmark_filename": list(sizes), "eval_args": {"mode": mode}, "topk": [10], "valid_metric": "NDCG@10"}
    own = common(tmp_path, metrics=["Recall", "NDCG", "MAP"], **more)
    found = by_us(own, fast)
    assert found == by_stock(own) and found[0]["recall@10"] == "1.0"


@pytest.mark.parametrize(
    "mode", ["labeled", "uni3", {"valid": "uni2", "test": "labeled"}], ids=["labeled", "uni3", "uni2, labeled"]
)
def test_value_metrics_by_labels_are_those_of_stock(tmp_path: Path, mode: Any) -> None:
    written(tmp_path, labelled())
    Table.levels = FINITE["many"]
    more = {"metrics": VALUE, "valid_metric": "AUC", "topk": [10], "eval_batch_size": 3, "threshold": {"rating": 3}}
    own = common(tmp_path, eval_args={"mode": mode, "group_by": None}, **more)
    found = by_us(own)
    assert found == by_stock(own) and set(found[0]) == {"auc", "logloss", "rmse", "mae"}


@pytest.mark.parametrize(
    ("mode", "metrics"),
    [("labeled", ["NDCG"]), ("labeled", ["GAUC"]), ({"valid": "labeled", "test": "uni3"}, ["AUC"])],
)
def test_modes_that_are_refused_end_in_an_error_of_stock(tmp_path: Path, mode: Any, metrics: list[str]) -> None:
    """Stock RecBole trains an epoch before it meets them."""
    written(tmp_path, labelled())
    more = {"metrics": metrics, "valid_metric": f"{metrics[0]}@1" if metrics == ["NDCG"] else metrics[0]}
    own = common(tmp_path, eval_args={"mode": mode, "group_by": None}, threshold={"rating": 3}, **more)
    with pytest.raises(OptionError):
        by_us(own)
    with pytest.raises((TypeError, AttributeError)):
        by_stock(own)


# -- fixedN, which stock does not have


def by_hand(data: Any, split: Any, scores: torch.Tensor, k: int) -> dict[str, float]:
    """The metrics of one split among its candidates, one user after the other, for distinct scores."""
    wanted: dict[int, set[int]] = {}
    for user, item in zip(*(split._dataset.inter_feat[name].tolist() for name in ("user_id", "item_id"))):
        wanted.setdefault(user, set()).add(item)
    recall, ndcg, above, pairs, shown = 0.0, 0.0, 0.0, 0.0, set()
    for user, held_out in wanted.items():
        among = [item for item in split.candidates[user].tolist() if item > 0]
        ranked = sorted(held_out.union(among), key=lambda item: -float(scores[user, item]))
        shown.update(ranked[:k])
        hits = [item in held_out for item in ranked[:k]]
        recall += sum(hits) / len(held_out)
        best = sum(1 / np.log2(place + 2) for place in range(min(k, len(held_out))))
        ndcg += sum(hit / np.log2(place + 2) for place, hit in enumerate(hits)) / best
        # GAUC weighs each user by the number of held-out items.
        others = [item for item in among if item not in held_out]
        won = sum(float(scores[user, item] > scores[user, other]) for item in held_out for other in others)
        above, pairs = above + won / len(others), pairs + len(held_out)
    return {
        f"recall@{k}": recall / len(wanted),
        f"ndcg@{k}": ndcg / len(wanted),
        "gauc": above / pairs,
        f"itemcoverage@{k}": len(shown) / scores.shape[1],
    }


@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [6, 2, 2]}], ids=["one held-out item", "several"])
@pytest.mark.parametrize("metrics", [["Recall", "NDCG", "GAUC", "ItemCoverage"], ["Recall", "NDCG", "ItemCoverage"]])
@pytest.mark.parametrize("seed", range(3))
def test_fixed_candidates_are_counted_by_hand(
    tmp_path: Path, split: dict[str, Any], metrics: list[str], seed: int
) -> None:
    written(tmp_path, rows_of(seed, 6, 14, 6, 0.5))
    Table.levels = tuple(np.random.default_rng(seed).permutation(5000) / 5000)
    own = common(tmp_path, metrics=metrics, topk=[3], valid_metric="NDCG@3", metric_decimal_place=9)
    own["eval_args"] = {"mode": {"valid": "fixed4", "test": "full"}, "split": split, "group_by": "user"}
    config = DistillConfig(Table, "small", config_dict=own)
    data = prepare_data(config)
    model = build_model(config, data)
    trainer = trainer_for(config, model)
    trainer.eval_collector.data_collect(data.train)
    found = trainer.evaluate(data.valid, load_best_model=False)
    expected = by_hand(data, data.valid, model.scores, 3)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: expected[name] for name in found}, abs=1e-6
    )
    # What was ranked among candidates before changes nothing for the split that is not.
    full = by_stock({**own, "eval_args": {**own["eval_args"], "mode": "full"}})[1]
    after = trainer.evaluate(data.test, load_best_model=False)
    assert {key: repr(float(value)) for key, value in after.items()} == full


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.sampled_from(list(LEVELS)), st.sampled_from([5, 60, 4200]), st.integers(1, 6))
def test_the_best_items_are_those_of_torch(seed: int, levels: str, width: int, count: int) -> None:
    """Of equal scores, NaN included, those that torch takes; rows above 4,096 scores are searched in blocks."""
    values = torch.tensor(LEVELS[levels], dtype=torch.float32)
    scores = values[torch.randint(len(values), (5, width), generator=torch.Generator().manual_seed(seed))]
    count = min(count, width)
    assert torch.equal(_best_items(scores, count), scores.topk(count, dim=1).indices)
