"""The mode fixedN: held-out items among the same unobserved items, each time and for every model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import BPR
from recbole.trainer import Trainer

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.candidates import CandidateLoader, candidates_digest, draw_candidates
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import CheckpointError, DataError, DistillError, OptionError
from recbole_derrd.exporting.checkpoint import described_by
from recbole_derrd.exporting.evaluate import Evaluation, evaluate_checkpoints
from recbole_derrd.exporting.protocol import mode_of_the_run, options_of_the_run
from recbole_derrd.exporting.request import Source
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.model_cache.keys import cache_key
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.training.trainer import trainer_for

Settings = Callable[..., dict[str, Any]]
FIXED = {"eval_args": {"mode": "fixed20", "split": {"LS": "valid_and_test"}, "order": "RO", "group_by": "user"}}


def prepared(tiny_settings: Settings, model: str = "BPR", **more: Any) -> tuple[DistillConfig, Any]:
    config = DistillConfig(model, "tiny", config_dict=tiny_settings(model, **{**FIXED, **more}))
    return config, prepare_data(config)


def seen_of(data: Any) -> dict[int, set[int]]:
    """Items of each user in any split."""
    seen: dict[int, set[int]] = {}
    for loader in (data.train, data.valid, data.test):
        feat = loader._dataset.inter_feat
        for user, item in zip(feat["user_id"].tolist(), feat["item_id"].tolist()):
            seen.setdefault(user, set()).add(item)
    return seen


def test_candidates_are_unobserved_distinct_and_shared(tiny_settings: Settings) -> None:
    _, data = prepared(tiny_settings)
    assert isinstance(data.valid, CandidateLoader) and isinstance(data.test, CandidateLoader)
    assert torch.equal(data.valid.candidates, data.test.candidates)
    for user, seen in seen_of(data).items():
        drawn = data.valid.candidates[user].tolist()
        assert len(set(drawn)) == 20 and not seen & set(drawn) and 0 not in drawn


def test_every_model_and_every_evaluation_is_judged_on_the_same(tiny_settings: Settings) -> None:
    _, first = prepared(tiny_settings)
    np.random.seed(99)
    _, second = prepared(tiny_settings, "LightGCN", embedding_size=4)
    assert torch.equal(first.test.candidates, second.test.candidates)
    _, other = prepared(tiny_settings, candidates_seed=5)
    assert not torch.equal(first.test.candidates, other.test.candidates)
    once, again = (list(first.test) for _ in range(2))
    assert all(torch.equal(one[1], two[1]) for one, two in zip(once, again))


@pytest.mark.parametrize("model", ["BPR", "NeuMF", "LightGCN", "MultiVAE", "ItemKNN"])
def test_metrics_are_those_of_a_slow_count(tiny_settings: Settings, model: str) -> None:
    more = {"train_neg_sample_args": None} if model == "MultiVAE" else {}
    config, data = prepared(tiny_settings, model, metrics=["Hit", "MRR"], topk=[1, 5], valid_metric="MRR@5", **more)
    trainer = trainer_for(config, build_model(config, data))
    trainer.fit(data.train, data.valid, saved=False)
    result = trainer.evaluate(data.test, load_best_model=False)
    trainer.model.eval()
    held_out = dict(zip(*(data.test._dataset.inter_feat[name].tolist() for name in ("user_id", "item_id"))))
    hits, reciprocal, tied = 0.0, 0.0, 0
    with torch.no_grad():
        for user, item in held_out.items():
            pairs = {
                "user_id": torch.full((data.dataset.item_num,), user),
                "item_id": torch.arange(data.dataset.item_num),
            }
            scores = trainer.model.predict(Interaction(pairs))
            others = scores[data.test.candidates[user].long()]
            tied += int((others == scores[item]).sum())
            rank = 1 + int((others > scores[item]).sum())
            hits += rank <= 5
            reciprocal += 1 / rank if rank <= 5 else 0
    slack = tied / len(held_out) + 1e-4
    assert result["hit@5"] == pytest.approx(hits / len(held_out), abs=slack)
    assert result["mrr@5"] == pytest.approx(reciprocal / len(held_out), abs=slack)


def test_a_model_with_equal_scores_gains_nothing(tiny_settings: Settings) -> None:
    """Where the held-out item stands must not decide."""
    config, data = prepared(tiny_settings, metrics=["Hit"], topk=[1, 10], valid_metric="Hit@10")
    trainer = trainer_for(config, build_model(config, data))
    torch.nn.init.zeros_(trainer.model.user_embedding.weight)
    result = trainer.evaluate(data.test, load_best_model=False)
    assert result["hit@1"] < 0.25 and 0.2 < result["hit@10"] < 0.8


def test_item_metrics_speak_of_items(tiny_settings: Settings) -> None:
    for metrics in (["Hit", "ItemCoverage", "AveragePopularity"], ["Hit", "GAUC", "ItemCoverage"]):
        config, data = prepared(tiny_settings, metrics=metrics, valid_metric="Hit@5")
        trainer = trainer_for(config, build_model(config, data))
        trainer.fit(data.train, data.valid, saved=False)
        result = trainer.evaluate(data.test, load_best_model=False)
        assert result["itemcoverage@5"] > 0.6, "30 users have 150 positions for 40 items"


def test_a_files_content_is_part_of_a_models_key_and_its_name_is_not(tiny_settings: Settings, tmp_path: Path) -> None:
    def key(file: Path, **more: Any) -> str:
        config, data = prepared(tiny_settings, candidates_file=str(file), **more)
        assert data.candidates == candidates_digest(torch.from_numpy(np.load(file)))
        return cache_key(config, data.fingerprint)

    first, second = tmp_path / "first.npy", tmp_path / "second.npy"
    found = key(first, candidates_seed=1)
    second.write_bytes(first.read_bytes())
    assert key(second) == found
    second.unlink()
    other = key(second, candidates_seed=2)
    assert other != found
    first.write_bytes(second.read_bytes())
    assert key(first) == other, "the same name with other content"


def test_a_teacher_with_a_seed_of_its_own_is_judged_among_the_same_candidates(tiny_settings: Settings) -> None:
    ordered = {**FIXED["eval_args"], "order": "TO"}
    data = {"load_col": {"inter": ["user_id", "item_id", "rating"]}, "TIME_FIELD": "rating", "eval_args": ordered}
    config, own = prepared(tiny_settings, **data)
    teacher = prepare_data(config.derived("BPR", {"seed": 5}, teacher=True))
    assert teacher.fingerprint == own.fingerprint and teacher.candidates == own.candidates
    assert prepared(tiny_settings, **data, seed=5)[1].candidates != own.candidates


def test_the_log_names_the_candidates(tiny_settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prepared(tiny_settings)
    assert "of the valid split are ranked among 20 candidates" in caplog.text
    assert "of the test split are ranked among 20 candidates" in caplog.text


def test_the_file_is_written_read_and_refused_for_other_data(tiny_settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "candidates.npy"
    _, data = prepared(tiny_settings, candidates_file=str(file))
    assert torch.equal(torch.from_numpy(np.load(file)), data.test.candidates)
    _, again = prepared(tiny_settings, candidates_file=str(file), candidates_seed=77)
    assert torch.equal(again.test.candidates, data.test.candidates), "a file goes over a seed"
    _, resplit = prepared(tiny_settings, candidates_file=str(file), seed=77)
    assert torch.equal(resplit.test.candidates, data.test.candidates), "what is in no split is in no other split either"
    wrong = np.load(file)
    wrong[1, 0] = min(seen_of(data)[1])
    np.save(file, wrong)
    with pytest.raises(DataError, match="users have interacted with"):
        prepared(tiny_settings, candidates_file=str(file))
    other = {**FIXED["eval_args"], "mode": "fixed7"}
    with pytest.raises(DataError, match="20 a user for 30 users, this run needs 7"):
        prepared(tiny_settings, candidates_file=str(file), eval_args=other)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"candidates\.npy' cannot be used: it has 200 bytes"):
        prepared(tiny_settings, candidates_file=str(file))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda array, seen: np.zeros_like(array), "row 1 holds 0, and items go from 1 to 40"),
        (lambda array, seen: with_value(array, 4, 2, 41), "row 4 holds 41"),
        (lambda array, seen: with_value(array, 4, 2, -1), "row 4 holds -1"),
        (lambda array, seen: with_value(array, 3, 1, array[3, 0]), "row 3 holds"),
        (lambda array, seen: with_value(array, 2, 0, max(seen[2])), "row 2 holds"),
        (lambda array, seen: array[:-1], "20 a user for 29 users, this run needs 20 for 30"),
        (lambda array, seen: array[:, :7], "7 a user"),
        (lambda array, seen: array.astype(float), "it holds float64"),
        (lambda array, seen: array[0], "shape"),
        (lambda array, seen: np.int32(3), "shape"),
        (lambda array, seen: array.astype(str), "not numbers"),
    ],
)
def test_a_users_own_file_is_refused_with_row_and_value(
    tiny_settings: Settings, tmp_path: Path, change: Callable[..., Any], words: str
) -> None:
    file = tmp_path / "own.npy"
    _, data = prepared(tiny_settings)
    np.save(file, change(data.test.candidates.numpy(), seen_of(data)))
    with pytest.raises(DataError) as caught:
        prepared(tiny_settings, candidates_file=str(file))
    assert words in str(caught.value) and "own.npy" in str(caught.value)
    content = file.read_bytes()
    with pytest.raises(DataError):
        prepared(tiny_settings, candidates_file=str(file))
    assert file.read_bytes() == content, "a file of the user's own stays as it is"


def with_value(array: Any, row: int, column: int, value: int) -> Any:
    changed = array.copy()
    changed[row, column] = value
    return changed


def test_a_users_own_file_may_hold_other_integers(tiny_settings: Settings, tmp_path: Path) -> None:
    _, data = prepared(tiny_settings)
    for number, kind in enumerate((np.int64, np.uint16, ">i4")):
        np.save(tmp_path / f"{number}.npy", np.asfortranarray(data.test.candidates.numpy().astype(kind)))
        _, own = prepared(tiny_settings, candidates_file=str(tmp_path / f"{number}.npy"))
        assert torch.equal(own.test.candidates, data.test.candidates) and own.candidates == data.candidates


def test_damaged_candidates_of_the_cache_are_drawn_anew(
    tiny_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    _, data = prepared(tiny_settings)
    file = data.candidates_file
    assert file is not None
    whole, description = file.read_bytes(), file.with_name(f"{file.name}.json")
    changed = data.test.candidates.numpy().copy()
    changed[1:, 0] = changed[1:, 0] ^ 1  # mostly items that may stand there as well
    np.save(file, changed)
    damages = [file.read_bytes(), whole[:-1], whole[:50], b"", whole + b"1", bytes(len(whole))]
    for content in damages:
        file.write_bytes(content)
        caplog.clear()
        _, again = prepared(tiny_settings)
        assert torch.equal(again.test.candidates, data.test.candidates) and file.read_bytes() == whole
        assert str(file) in caplog.text and "drawn anew" in caplog.text
    description.unlink()
    prepared(tiny_settings)
    assert description.is_file()
    caplog.clear()
    prepared(tiny_settings)
    assert "drawn anew" not in caplog.text


def test_too_many_candidates_are_refused(tiny_settings: Settings) -> None:
    with pytest.raises(DataError, match=r"only 2\d unobserved items"):
        prepared(tiny_settings, eval_args={**FIXED["eval_args"], "mode": "fixed35"})
    with pytest.raises(DataError, match="among 3 candidates only"):
        prepared(tiny_settings, eval_args={**FIXED["eval_args"], "mode": "fixed3"})
    with pytest.raises(OptionError, match="must say how many"):
        prepared(tiny_settings, eval_args={**FIXED["eval_args"], "mode": "fixed"})


def test_one_file_holds_one_number_of_candidates(tiny_settings: Settings, tmp_path: Path) -> None:
    modes = {"valid": "fixed4", "test": "fixed9"}
    given = tiny_settings("BPR", eval_args={"mode": modes}, candidates_file=str(tmp_path / "c.npy"), topk=[3])
    given["valid_metric"] = "NDCG@3"
    with pytest.raises(DataError, match="one number of candidates a user, and mode in eval_args names two"):
        prepare_data(DistillConfig("BPR", "tiny", config_dict=given))
    assert not (tmp_path / "c.npy").exists()


def test_candidates_are_uniform() -> None:
    users, items = torch.tensor([1, 1, 2]), torch.tensor([3, 5, 1])
    counts = torch.zeros(3, 9)
    for seed in range(600):
        drawn = draw_candidates(users, items, 3, 9, 3, seed)
        counts.scatter_add_(1, drawn.long(), torch.ones(3, 3))
    assert counts[1, [0, 3, 5]].sum() == 0 and counts[2, [0, 1]].sum() == 0
    # 600 draws of 3 out of 6 (or 7): 300 (or 257) each, standard deviation 12.
    assert (counts[1, [1, 2, 4, 6, 7, 8]] - 300).abs().max() < 60
    assert (counts[2, 2:] - 600 * 3 / 7).abs().max() < 60


def test_a_run_with_fixed_candidates(tiny_settings: Settings) -> None:
    more = {**FIXED, "distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "latency_users": 0}
    record = run_recbole_derrd("BPR", "tiny", config_dict=tiny_settings("BPR", **more))
    assert record["protocol"]["mode"] == {"valid": "fixed20", "test": "fixed20"}
    assert candidates_digest(torch.from_numpy(np.load(record["candidates_file"]))) == record["candidates"]
    assert record["distilled"]["test"].keys() == record["teacher"]["test"].keys()


def test_a_checkpoint_is_evaluated_by_its_runs_protocol(tiny_settings: Settings, tmp_path: Path) -> None:
    """Stock RecBole's part of it says full; mode, seed and file of the candidates are in this plugin's own part."""
    own, _ = prepared(tiny_settings)
    config, data = prepared(tiny_settings, candidates_seed=7, candidates_file=str(tmp_path / "own.npy"), split_seed=5)
    assert not torch.equal(prepare_data(own).valid.candidates, data.valid.candidates)
    model, file = build_model(config, data), tmp_path / "model.pth"
    trainer = trainer_for(config, model, checkpoint=file, role="student")
    trainer.fit(data.train, data.valid)
    test = trainer.evaluate(data.test, load_best_model=False)

    def evaluated(*settings: str) -> Any:
        return evaluate_checkpoints(Evaluation((file,), settings=settings))[0]

    record = evaluated()
    assert record.distilled.test == {name: float(value) for name, value in test.items()} and not record.warnings
    assert record.distilled.valid["ndcg@5"] == trainer.best_valid_score
    assert record.protocol["mode"] == {"valid": "fixed20", "test": "fixed20"} and record.split_seed == 5
    assert record.candidates == data.candidates and record.candidates_file == str(tmp_path / "own.npy")
    assert described_by(Source(file, "export"))[0].candidates_seed == 7
    assert evaluated("--eval_args={mode: full, split: {LS: valid_and_test}}").protocol["mode"]["test"] == "full"
    assert evaluated(f"--candidates_file={tmp_path / 'other.npy'}", "--candidates_seed=8").distilled.test
    content = torch.load(file, weights_only=False)
    # A file of an earlier version: its protocol is stock RecBole's, and its validation score says that it was not.
    earlier = {key: value for key, value in content["derrd"].items() if key != "mode" and "candidates" not in key}
    torch.save({**content, "derrd": earlier}, file)
    record = evaluated()
    assert record.protocol["mode"]["test"] == "full" and "give its own --eval_args" in record.warnings[0]
    (tmp_path / "other.npy").replace(tmp_path / "own.npy")
    torch.save(content, file)
    with pytest.raises(DataError, match="among other candidates than those in"):
        evaluated()
    (tmp_path / "own.npy").unlink()
    with pytest.raises(DataError, match=r"there is no such file\. Name the file: --candidates_file=FILE"):
        evaluated()
    assert not (tmp_path / "own.npy").exists()


def test_candidates_that_cannot_be_kept_are_drawn_all_the_same(
    tiny_settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside a checkpoint that nobody may write to; the user's own file has to be written."""
    _, kept = prepared(tiny_settings)
    (tmp_path / "text").write_text("no folder")
    _, drawn = prepared(tiny_settings, cache_dir=str(tmp_path / "text" / "cache"))
    assert torch.equal(drawn.valid.candidates, kept.valid.candidates)
    assert "The candidates are drawn for this run alone: Cannot write" in caplog.text
    with pytest.raises(DistillError, match="Cannot write"):
        prepared(tiny_settings, candidates_file=str(tmp_path / "text" / "own.npy"))


@pytest.mark.parametrize(
    "damaged",
    [{"mode": "fixed20"}, {"mode": {"valid": 1, "test": 2}}, {"candidates_seed": "7"}, {"split_seed": True},
     {"candidates_file": 3}, {"candidates_file": "a\0b"}],
    ids=str,
)  # fmt: skip
def test_what_is_no_protocol_in_a_checkpoint_is_refused(damaged: dict[str, Any]) -> None:
    content = {"derrd": damaged}
    with pytest.raises(CheckpointError, match=f"The {next(iter(damaged))} in 'a.pth' is .* Give your own: --"):
        options_of_the_run(content, Path("a.pth"), ())
        mode_of_the_run(content, Path("a.pth"))


def test_stock_recbole_judges_such_a_student_by_full_ranking(tiny_settings: Settings) -> None:
    more = {**FIXED, "distillers": ["rrd"], "rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8, "latency_users": 0}
    record = run_recbole_derrd("BPR", "tiny", config_dict=tiny_settings("BPR", **more))
    content = torch.load(record["checkpoints"]["student"], weights_only=False)
    config = content["config"]
    assert config["eval_args"]["mode"] == {"valid": "full", "test": "full"}
    dataset = create_dataset(config)
    train, _, test = data_preparation(config, dataset)
    model = BPR(config, train._dataset)
    model.load_state_dict(content["state_dict"])
    trainer = Trainer(config, model)
    trainer.eval_collector.data_collect(train)
    assert dict(trainer.evaluate(test, load_best_model=False)).keys() == record["distilled"]["test"].keys()
