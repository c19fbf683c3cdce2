"""Runs on different data are never averaged, those on the same never torn apart; no two tables have one title."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_records import groups_of, made, part, synthetic, written

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.fingerprint import interactions_digest
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.experiment.compress import run_compressed
from recbole_derrd.quick_start import run_recbole_derrd
from recbole_derrd.report.comparison import gap_of
from recbole_derrd.report.document import report_of
from recbole_derrd.report.titles import numbered

Settings = Callable[..., dict[str, Any]]


def drawn(seed: int, test: str, **data: Any) -> dict[str, Any]:
    """A run whose seed decides the split."""
    prints = {"ids": "i", "train": f"t{test}", "valid": f"v{test}", "test": test}
    return made("DE", seed, 0.4, split_seed=None, data={"fingerprint": prints, **data})


def counted(*records: dict[str, Any]) -> list[int]:
    return [len(group.records) for group in groups_of(records)]


def test_seeds_of_other_interactions_are_another_table() -> None:
    whole = [drawn(seed, f"s{seed}", interactions="whole") for seed in (1, 2, 3)]
    fewer = [drawn(seed, f"f{seed}", interactions="fewer") for seed in (3, 4)]
    assert counted(*whole) == [3] and counted(*whole, *fewer) == [3, 2]
    titles = [group.title for group in groups_of([*whole, *fewer])]
    assert len(set(titles)) == 2


def test_records_from_before_that_hash_are_told_apart_by_sizes_files_and_splits() -> None:
    sizes = {"users": 9, "items": 9, "training_interactions": 80}
    old = [drawn(seed, f"s{seed}", **sizes) for seed in (1, 2)]
    assert counted(*old) == [2]
    assert counted(*old, drawn(3, "s3", **{**sizes, "training_interactions": 79})) == [2, 1]
    assert counted(*old, drawn(1, "other", **sizes)) == [2, 1], "one seed has one split of one data set"
    files = [drawn(seed, f"s{seed}", **sizes, files={"toy.inter": "1-a", "toy.item": f"{seed}"}) for seed in (1, 2)]
    changed = drawn(3, "s3", **sizes, files={"toy.inter": "1-b"})
    assert counted(*files) == [2] and counted(*files, changed) == [2, 1]
    new = [drawn(seed, f"s{seed}", **sizes, interactions="whole") for seed in (3, 4)]
    assert counted(*old, *new) == [4], "a benchmark that an earlier version began"
    others = [drawn(seed, f"x{seed}", **sizes, interactions="other") for seed in (5, 6)]
    assert counted(*old, *new, *others) == [2, 2, 2], "old records that may belong to both stand alone"


def test_folds_and_held_splits_are_known_by_their_parts() -> None:
    folds = [
        {**drawn(1, test, interactions="whole"), "distilled": part("BPR", 0.4, 100, benchmark_filename=["a", "b", "c"])}
        for test in ("fold0", "fold1")
    ]
    assert counted(*folds) == [1, 1]
    titles = [group.title for group in groups_of(folds)]
    assert titles == [f"toy, test split, full ranking, seed 1, its own split ({number})" for number in (1, 2)]
    held = [{**drawn(seed, "held"), "split_seed": 1} for seed in (1, 2)]
    assert counted(*held) == [2]
    held[1]["data"]["fingerprint"]["train"] = "fewer"
    assert counted(*held) == [1, 1]
    in_time = [drawn(seed, f"s{seed}", interactions="whole") for seed in (1, 2)]
    for record in in_time:
        record["protocol"] = {**record["protocol"], "order": "TO"}
    assert counted(*in_time) == [1, 1], "an order of time does not depend on the seed"


def test_what_else_is_judged_is_another_table() -> None:
    for change in (
        {"protocol": {"mode": {"valid": "full", "test": "uni9"}, "order": "RO"}},
        {"valid_metric": "recall@10"},
        {"distilled": part("BPR", 0.4, 100, repeatable=True)},
    ):
        assert counted(made("DE", 1, 0.4), {**made("DE", 2, 0.4), **change}) == [1, 1], change


def compressed(seed: int, score: float, **more: Any) -> dict[str, Any]:
    """A compressed teacher's record without a hash of all interactions: candidates are always said to be given."""
    return made(
        "SVD", seed, score, distillers=[], student=None, compression={"method": "svd"}, candidates_given=True,
        options={"compress_size": 4}, **more,
    )  # fmt: skip


@pytest.mark.parametrize("split_seed", [1, None])
def test_a_compressed_teacher_stands_beside_the_students(split_seed: int | None) -> None:
    records = synthetic() + [compressed(seed, 0.45, candidates=None) for seed in (1, 2, 3)]
    if split_seed is None:
        records = [{**record, "split_seed": None, "data": drawn(1, f"s{record['seed']}")["data"]} for record in records]
    (group,) = groups_of(records)
    row = next(row for row in group.rows.values() if row.label == "SVD")
    assert gap_of(group, row, "ndcg@10") == pytest.approx((0.45 - 0.302) / (0.5 - 0.302))
    among = [
        {**record, "protocol": made("DE", 1, 0.4, mode="fixed9")["protocol"], "candidates": f"c{record['seed']}"}
        for record in records
    ]
    expected = 5 if split_seed else 1
    assert len(groups_of(among)) == expected, "of one split there is one set of candidates"


# -- titles

WORDS = ("toy", "toy, test split", "a (1)", "a", "a (2)")
FACTS: dict[str, Any] = {
    "dataset": WORDS,
    "seed": (1, 2),
    "split_seed": (None, 1),
    "valid_metric": ("ndcg@10", "recall@10"),
    "candidates": (None, "c", "d"),
    "candidates_given": (None, False, True),
    "compression": (None, {"method": "svd"}),
    "protocol": [
        {"order": order, "mode": {"valid": valid, "test": test}, **more}
        for order, valid, test, more in itertools.product(
            ("RO", "TO"), ("full", "fixed9"), ("full", "uni9"), ({}, {"split": {"LS": "valid_only"}}, {"other": 1})
        )
    ],
}
DATA = {"users": (8, 9), "interactions": (None, "x", "y"), "training_interactions": (None, 7)}
PRINTS = {"ids": ("i", "j"), "train": ("t", "u"), "test": ("w", "x")}


@st.composite
def records_of_any_data(draw: Any) -> list[dict[str, Any]]:
    def one() -> dict[str, Any]:
        record = made(draw(st.sampled_from(("DE", "DE #2"))), 1, draw(st.sampled_from((0.4, 0.5))))
        for facts, holder in ((FACTS, record), (DATA, record["data"]), (PRINTS, record["data"]["fingerprint"])):
            # Few differ in many ways, or all would be alone.
            for key in draw(st.sets(st.sampled_from(sorted(facts)), max_size=2)):
                holder[key] = draw(st.sampled_from(facts[key]))
        return record

    return [copy.deepcopy(one()) for _ in range(draw(st.integers(2, 7)))]


@settings(max_examples=60, deadline=None)
@given(records_of_any_data())
def test_no_two_tables_have_one_title_and_none_holds_two_kinds_of_data(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    text = report_of(written(tmp_path_factory.mktemp("records"), records), "md")
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(set(titles)) == len(titles) >= 1
    for group in groups_of(records):
        labels = [row.label for row in group.rows.values()]
        assert len(set(labels)) == len(labels)
        for key in ("dataset", "protocol", "valid_metric"):
            assert all(getattr(record, key) == getattr(group.records[0], key) for record in group.records)
        data = [record.data for record in group.records]
        assert len({one.fingerprint.ids for one in data}) == 1
        for key in DATA:
            assert len({getattr(one, key) for one in data} - {None}) <= 1, key
        if any(record.split_seed is not None for record in group.records):
            assert len({(one.fingerprint.train, one.fingerprint.test) for one in data}) == 1
            assert len({record.candidates for record in group.records} - {None}) <= 1


@given(st.lists(st.sampled_from(("a", "a (2)", "a (2) (2)", "b"))))
def test_numbered_names_are_each_their_own(names: list[str]) -> None:
    found = numbered(names, " ({})")
    assert len(set(found)) == len(names) and all(new.startswith(old) for new, old in zip(found, names))
    assert [new for new, old in zip(found, names) if names.count(old) == 1] == [
        old for old in names if names.count(old) == 1
    ]


# -- real runs


def test_the_hash_of_all_interactions_is_of_the_data_and_not_of_the_split(
    tiny_settings: Settings, tiny_data: Path, tmp_path: Path
) -> None:
    def digest(**more: Any) -> str:
        return interactions_digest(
            prepare_data(DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **more))).dataset
        )

    whole = digest()
    timed = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "eval_args": {"order": "TO"}}
    assert digest(seed=7) == digest(**timed) == digest(eval_args={"split": {"LS": "valid_and_test"}})
    assert digest(seed=7) == whole
    (tmp_path / "tiny").mkdir()
    lines = (tiny_data / "tiny" / "tiny.inter").read_text().splitlines()
    (tmp_path / "tiny" / "tiny.inter").write_text("\n".join(lines[:-2]))
    columns = {"load_col": {"inter": ["user_id", "item_id", "rating"]}}
    assert len({whole, digest(data_path=str(tmp_path)), digest(val_interval={"rating": "[4,inf)"}, **columns),
                digest(threshold={"rating": 4}, **columns)}) == 4  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "fixed9"])
def test_a_run_and_its_compressed_teacher_are_one_table(tiny_settings: Settings, tmp_path: Path, mode: str) -> None:
    given = tiny_settings(
        "BPR", distillers=["rrd"], rrd_k=4, rrd_l=4, rrd_top_n=8, latency_users=0, eval_args={"mode": mode},
        teacher={"embedding_size": 16, "seed": 5}, split_seed=1, record_dir=str(tmp_path / "records"),
    )  # fmt: skip
    run_recbole_derrd("BPR", "tiny", config_dict=given)
    more = {"compress_method": "svd", "compress_size": 4}
    record = run_compressed("BPR", "tiny", config_dict={**given, **more})
    assert record["candidates_given"] is False, "nothing in the settings names any"
    del given["split_seed"], given["teacher"]["seed"]
    text = report_of(tmp_path / "records", "md")
    assert text.count("\n## ") + text.startswith("## ") == 2, "one table, and the test in it"
    assert "| Compressed |" in text and "| RRD |" in text
