"""A compressed teacher from its embeddings to its record, evaluated as every other model is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_derrd.adapters import adapter_class, adapter_of
from recbole_derrd.benchmark.frontier import _by_codebooks
from recbole_derrd.compression import CompressedModel, compress
from recbole_derrd.compression.model import CompressedAdapter
from recbole_derrd.compression.recipe import check_rank, check_recipe
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.config.options.compress import CompressOptions
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.evaluation.latency import measure_latency
from recbole_derrd.evaluation.size import model_bytes
from recbole_derrd.experiment.compress import recipe_name, run_compressed
from recbole_derrd.experiment.plans import Sizes
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.quick_start import run_recbole_derrd

pytestmark = pytest.mark.whole_run

Settings = Callable[..., dict[str, Any]]
FULL: dict[str, Any] = {}
FIXED = {"eval_args": {"mode": "fixed20", "split": {"LS": "valid_and_test"}, "order": "RO", "group_by": "user"}}


@pytest.fixture
def prepared(tiny_settings: Settings) -> tuple[DistillConfig, Any, Any]:
    """Return configuration, data and an untrained BPR model of 8 dimensions."""
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR"))
    data = prepare_data(config)
    return config, data, build_model(config, data).eval()


def dense_scores(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return adapter_of(model).score_all(torch.arange(model.n_users))


def compressed(prepared: tuple[DistillConfig, Any, Any], **options: Any) -> CompressedModel:
    config, data, model = prepared
    tables = compress(adapter_of(model), CompressOptions(**options), 3)  # type: ignore[arg-type]
    return CompressedModel(config, data.train._dataset, tables).eval()


# -- the model


@pytest.mark.parametrize(
    "options", [{"method": "svd", "size": 8}, {"method": "quantized", "bits": 8}, {"method": "svd", "size": 3}], ids=str
)
def test_scores_are_the_best_approximation_of_the_teachers(prepared: Any, options: dict[str, Any]) -> None:
    wanted, found = dense_scores(prepared[2])[1:, 1:], dense_scores(compressed(prepared, **options))[1:, 1:]
    lost = torch.linalg.svdvals(wanted)[options.get("size", 8) :].square().sum().sqrt()
    error = (found - wanted).norm()
    tolerance = 0.02 if options["method"] == "quantized" else 1e-5
    torch.testing.assert_close(error, lost, rtol=1e-4, atol=float(tolerance * wanted.norm()))


@pytest.mark.parametrize("options", [{"method": "svd", "size": 3}, {"method": "quantized", "bits": 2, "users": True}])
def test_predictions_are_products_of_the_stored_vectors(prepared: Any, options: dict[str, Any]) -> None:
    model = compressed(prepared, **options)
    users, items = torch.tensor([1, 5, 5, 29]), torch.tensor([2, 40, 1, 7])
    user, item = model.tables.users.rows(), model.tables.items.rows()
    wanted = [sum(a * b for a, b in zip(user[u].tolist(), item[i].tolist())) for u, i in zip(users, items)]
    pairs = Interaction({model.USER_ID: users, model.ITEM_ID: items})
    assert model.predict(pairs).tolist() == pytest.approx(wanted, abs=1e-6)
    rows = model.full_sort_predict(pairs).view(4, model.n_items)
    torch.testing.assert_close(rows[torch.arange(4), items], model.predict(pairs))
    adapter = adapter_of(model)
    assert isinstance(adapter, CompressedAdapter) and not adapter.trainable
    torch.testing.assert_close(adapter.score_all(users), rows)
    torch.testing.assert_close(adapter.score(users, items.view(4, 1)).view(4), model.predict(pairs))
    assert measure_latency(model, 5, seed=0) is not None


@pytest.mark.usefixtures("few_rounds")
def test_bytes_are_those_of_the_stored_tables(prepared: Any) -> None:
    users, items = prepared[1].history.n_users, prepared[1].history.n_items
    assert model_bytes(compressed(prepared, method="svd", size=3)) == 4 * 3 * (users + items)
    assert model_bytes(compressed(prepared, method="quantized", bits=3)) == 4 * 8 * users + (3 + 2) * items + 4
    both = compressed(prepared, method="quantized", bits=3, users=True)
    assert model_bytes(both) == (3 + 2) * (users + items) + 8
    pytest.importorskip("faiss")
    product = compressed(prepared, method="product", bytes=2)
    assert model_bytes(product) == 4 * 8 * users + 2 * items + 4 * 8 * (items - 1)


@pytest.mark.usefixtures("few_rounds")
@pytest.mark.parametrize(
    "options",
    [
        {"method": "quantized", "bits": 8, "rotation": "learned"},
        {"method": "quantized", "bits": 8, "rotation": "none"},
        {"method": "product", "bytes": 3},
        {"method": "product", "bytes": 3, "rotation": "none"},
        {"method": "product", "bytes": 3, "codebooks": "opq"},
        {"method": "product", "bytes": 6, "codebooks": "prq"},
        {"method": "product", "bytes": 3, "codebooks": "rq"},
        {"method": "product", "bytes": 2, "codebooks": "lsq"},
    ],
    ids=str,
)
def test_every_rotation_leaves_the_scores(prepared: Any, options: dict[str, Any]) -> None:
    """Users stay float32, so that with 8 bits, or a codeword for each of 40 items, hardly anything is lost."""
    if options["method"] == "product":
        pytest.importorskip("faiss")
    wanted, found = dense_scores(prepared[2])[1:, 1:], dense_scores(compressed(prepared, **options))[1:, 1:]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02 * float(wanted.abs().max()))
    same = dense_scores(compressed(prepared, **options))[1:, 1:]
    assert torch.equal(found, same)


def test_a_learned_rotation_loses_less_than_a_random_one(prepared: Any) -> None:
    wanted = dense_scores(prepared[2])[1:, 1:]
    lost = [
        float((dense_scores(compressed(prepared, method="quantized", bits=1, rotation=one))[1:, 1:] - wanted).norm())
        for one in ("learned", "random")
    ]
    assert lost[0] < 0.95 * lost[1]


@pytest.mark.usefixtures("few_rounds")
def test_the_padding_items_vector_changes_nothing(prepared: Any) -> None:
    before = compressed(prepared, method="quantized", size=3, bits=2)
    with torch.no_grad():
        prepared[2].item_embedding.weight[0] = 1000.0
        prepared[2].user_embedding.weight[0] = -1000.0
    after = compressed(prepared, method="quantized", size=3, bits=2)
    assert torch.equal(before.item_embeddings(), after.item_embeddings()) and not after.item_embeddings()[0].any()


def test_a_class_that_names_its_adapter_is_not_in_the_table() -> None:
    assert adapter_class(CompressedModel) is CompressedAdapter
    assert adapter_class(type("Heir", (CompressedModel,), {})) is CompressedAdapter


# -- the options and what is refused


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"method": "svd"}, "compress_size: 20"),
        ({"method": "quantized"}, "compress_bits: 4"),
        ({"method": "product"}, "compress_bytes: 20"),
        ({"method": "svd", "size": 2, "bits": 4}, "belongs to compress_method: quantized"),
        ({"method": "quantized", "bits": 4, "bytes": 4}, "belongs to compress_method: product"),
        ({"method": "quantized", "bits": 16}, "1 to 8, or 32"),
        ({"method": "quantised", "bits": 4}, "Did you mean 'quantized'"),
        ({"method": "svd", "size": 0}, "at least 1"),
        ({"method": "svd", "size": 2, "codebooks": "rq"}, "compress_codebooks belongs to compress_method: product"),
        ({"method": "quantized", "bits": 1, "levels": "lloyd_max"}, "bits 2 to 4"),
        ({"method": "quantized", "bits": 5, "levels": "lloyd_max"}, "bits 2 to 4"),
        ({"method": "product", "bytes": 4, "levels": "lloyd_max"}, "bits 2 to 4"),
        ({"method": "quantized", "bits": 4, "levels": "lloyd-max"}, "Did you mean 'lloyd_max'"),
        ({"method": "quantized", "bits": 4, "rotation": "learnt"}, "Did you mean 'learned'"),
        ({"method": "product", "bytes": 4, "rotation": "learned"}, "compress_codebooks: opq"),
        ({"method": "product", "bytes": 4, "codebooks": "opq", "rotation": "none"}, "learns its rotation"),
        ({"method": "product", "bytes": 4, "codebooks": "rq", "rotation": True}, "whole vectors"),
        ({"method": "product", "bytes": 4, "codebooks": "lsq", "rotation": "learned"}, "whole vectors"),
        ({"method": "product", "bytes": 5, "codebooks": "prq"}, "no multiple of compress_part_bytes = 2"),
        ({"method": "product", "bytes": 4, "codebooks": "rq", "part_bytes": 4}, "belongs to compress_codebooks: prq"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        CompressOptions(**keys)


@pytest.mark.parametrize(
    ("keys", "turned"),
    [
        ({"method": "svd", "size": 2}, "none"),
        ({"method": "quantized", "bits": 4}, "learned"),
        ({"method": "quantized", "bits": 4, "rotation": True}, "random"),
        ({"method": "quantized", "bits": 4, "rotation": False}, "none"),
        ({"method": "product", "bytes": 4}, "random"),
        ({"method": "product", "bytes": 4, "rotation": "none"}, "none"),
        ({"method": "product", "bytes": 4, "codebooks": "opq"}, "learned"),
        ({"method": "product", "bytes": 4, "codebooks": "prq"}, "learned"),
        ({"method": "product", "bytes": 4, "codebooks": "prq", "rotation": "random"}, "random"),
        ({"method": "product", "bytes": 4, "codebooks": "rq"}, "none"),
        ({"method": "product", "bytes": 4, "codebooks": "lsq"}, "none"),
    ],
)
def test_the_rotation_is_the_methods_unless_given(keys: dict[str, Any], turned: str) -> None:
    options = CompressOptions(**keys)
    assert options.turned == turned
    assert CompressOptions.from_keys(options.to_keys()) == options


def test_options_are_known_to_the_configuration(tiny_settings: Settings) -> None:
    more = {"compress_method": "quantized", "compress_bits": "4", "compress_users": "True"}
    config = DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", **more))
    assert config.compress_options == CompressOptions(method="quantized", bits=4, users=True)
    assert CompressOptions.from_keys(CompressOptions.defaults()) == CompressOptions()
    assert config.derived("BPR", {}).compress_options.method == "none"
    with pytest.raises(OptionError, match="Did you mean 'compress_bits'"):
        DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", compress_bit=4))
    with pytest.raises(OptionError, match="option of the run, not of a teacher"):
        DistillConfig("BPR", "tiny", config_dict=tiny_settings("BPR", teacher={"compress_bits": 4}))


def test_codebooks_of_a_frontier_are_of_no_more_dimensions_than_scores_have() -> None:
    ((_, settings),) = _by_codebooks("pq", 5, Sizes(30, 40, 400, 48))
    options = CompressOptions.from_keys({key: value for key, value in settings.items() if "compress_" in key})
    assert options.size == 30
    check_rank(options, 30, 40)


def test_what_cannot_be_compressed_is_refused(
    prepared: Any, tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, words in (
        ({"method": "svd", "size": 9}, "more than the teacher's 8 dimensions"),
        ({"method": "product", "bytes": 9}, "more than one byte a dimension"),
        ({"method": "product", "bytes": 4, "size": 3}, "more than one byte a dimension"),
    ):
        with pytest.raises(OptionError, match=words):
            compressed(prepared, **options)
    tables, wide = torch.nn.ModuleList(torch.nn.Embedding(rows, 48) for rows in (31, 41)), prepared[2]
    wide.user_embedding, wide.item_embedding = tables
    compressed(prepared, method="svd", size=30)
    with pytest.raises(OptionError, match="Give 30 at most, or take it out"):
        compressed(prepared, method="product", size=31, bytes=31)
    with torch.no_grad():
        prepared[2].item_embedding.weight[4] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        compressed(prepared, method="svd", size=2)
    for model, more, words in (
        ("BPR", {}, "Nothing is compressed"),
        ("NeuMF", {"compress_method": "svd", "compress_size": 2}, "NeuMF's is not"),
        ("BPR", {"compress_method": "svd", "compress_size": 2, "nproc": 2}, "by one process"),
        ("BPR", {"compress_method": "svd", "compress_size": 9}, "more than the teacher's 8 dimensions"),
        ("BPR", {"compress_method": "svd", "compress_size": 31, "embedding_size": 48}, "30 users and 40 items have"),
    ):
        with pytest.raises(OptionError, match=words):
            run_compressed(model, "tiny", config_dict=tiny_settings(model, **more))
        assert not list((tmp_path / "saved" / "cache").glob("BPR-*")), "nothing was trained for it"
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(OptionError, match="pip install"):
        check_recipe(CompressOptions(method="product", bytes=2), CompressedAdapter, "BPR")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"method": "svd", "size": 20}, "svd20"),
        ({"method": "quantized", "size": 160, "bits": 4}, "svd160-4bit"),
        ({"method": "quantized", "bits": 8, "rotation": False, "users": True}, "8bit-unrotated-users"),
        ({"method": "quantized", "bits": 2, "levels": "lloyd_max", "rotation": True}, "2bit-lloyd_max-random"),
        ({"method": "product", "bytes": 20}, "pq20"),
        ({"method": "product", "bytes": 20, "codebooks": "prq", "size": 80}, "svd80-prq20"),
    ],
)
def test_a_recipes_name_tells_it(keys: dict[str, Any], name: str) -> None:
    assert recipe_name(CompressOptions(**keys)) == name


# -- the run


@pytest.mark.parametrize("protocol", [FULL, FIXED], ids=["full", "fixed20"])
def test_a_run_writes_an_ordinary_record(tiny_settings: Settings, tmp_path: Path, protocol: dict[str, Any]) -> None:
    more = {**protocol, "record_dir": str(tmp_path / "records"), "latency_users": 3, "teacher": {"embedding_size": 16}}
    settled = tiny_settings("BPR", epochs=5, distillers=["rrd"], rrd_k=2, rrd_l=2, rrd_top_n=5, **more)
    whole = {"compress_method": "svd", "compress_size": 16}
    record = run_compressed("BPR", "tiny", config_dict={**settled, **whole}, command_line=["--distillers=[de]"])
    # Nothing is cut off, so that the numbers are the teacher's own.
    assert record["distilled"]["test"] == record["teacher"]["test"]
    assert record["distilled"]["valid"] == record["teacher"]["valid"]
    assert record["distillers"] == [] and record["student"] is None and record["distilled"]["epochs"] == 0
    assert record["distilled"]["bytes"] == record["teacher"]["bytes"]
    assert record["distilled"]["params"] == record["teacher"]["params"]

    few = {"compress_method": "quantized", "compress_size": 12, "compress_bits": 1, "compress_users": True}
    record = run_compressed("BPR", "tiny", config_dict={**settled, **few})
    assert record["teacher"]["found"] and record["distilled"]["bytes_per_item"] == 2 + 2
    compression = record["compression"]
    assert compression["bytes_per_item"] == compression["bytes_per_user"] == 4 and compression["size"] == 12
    assert compression["bits"] == 1 and compression["svd"] and compression["seed"] == 2020
    assert compression["rotation"] == "learned" and compression["levels"] == "uniform"
    written = json.loads(Path(record["path"]).read_text(encoding="utf-8"))
    assert written["schema"] == record["schema"] and written["compression"] == compression
    assert Path(record["path"]).name.startswith("BPR-tiny-svd12-1bit-users-seed2020-")
    assert record["distilled"]["latency"] and record["options"]["compress_bits"] == 1
    again = run_compressed("BPR", "tiny", config_dict={**settled, **few})
    assert again["distilled"]["test"] == record["distilled"]["test"]


def test_the_teacher_is_the_one_of_a_distillation(tiny_settings: Settings, tmp_path: Path) -> None:
    more = {"record_dir": str(tmp_path / "records"), "latency_users": 0, "teacher": {"embedding_size": 16}}
    rrd = {"distillers": ["rrd"], "rrd_k": 2, "rrd_l": 2, "rrd_top_n": 5, "compare_student": False}
    settled = tiny_settings("BPR", **more, **rrd)
    distilled = run_recbole_derrd("BPR", "tiny", config_dict=settled)
    record = run_compressed("BPR", "tiny", config_dict={**settled, "compress_method": "quantized", "compress_bits": 8})
    assert record["teacher"]["found"] and record["teacher"]["key"] == distilled["teacher"]["key"]


@pytest.mark.parametrize("teacher", ["LightGCN", "NCEPLRec", "SimpleX", "ENMF"])
def test_any_teacher_of_two_vectors_can_be_compressed(tiny_settings: Settings, tmp_path: Path, teacher: str) -> None:
    more = {"record_dir": str(tmp_path / "records"), "latency_users": 2, "teacher_model": teacher, "rank": 6}
    if teacher == "ENMF":
        more["teacher"] = {"train_neg_sample_args": None}
    few = {"compress_method": "quantized", "compress_bits": 8}
    record = run_compressed("BPR", "tiny", config_dict=tiny_settings("BPR", **more, **few))
    assert record["model"] == record["teacher"]["model"] == teacher
    for metric, value in record["teacher"]["test"].items():
        assert record["distilled"]["test"][metric] == pytest.approx(value, abs=0.1)


@pytest.mark.parametrize("codebooks", ["pq", "opq", "rq", "lsq", "prq"])
def test_codebooks_of_a_teacher(tiny_settings: Settings, tmp_path: Path, codebooks: str) -> None:
    pytest.importorskip("faiss")
    more = {"record_dir": str(tmp_path / "records"), "latency_users": 0, "compress_method": "product"}
    more.update({"compress_codebooks": codebooks, "compress_bytes": 2, "compress_size": 6})
    record = run_compressed("BPR", "tiny", config_dict=tiny_settings("BPR", **more))
    # 40 items have a codeword each: only what the SVD leaves out is lost.
    for metric, value in record["teacher"]["test"].items():
        assert record["distilled"]["test"][metric] == pytest.approx(value, abs=0.15)
    compression = record["compression"]
    levels, centres = (1, 40) if codebooks in ("pq", "opq") else (2, 256)
    assert compression["codebook_bytes"] == levels * centres * 6 * 4 and compression["codebooks"] == codebooks
    assert compression["bytes_per_item"] == 2 and record["distilled"]["bytes_per_item"] == 2
    assert Path(record["path"]).name.startswith(f"BPR-tiny-svd6-{codebooks}2-seed2020-")
