"""Every general recommender of RecBole, truly run: as teacher of a BPR student, and as student of a BPR teacher.

What the runs show is the table of docs/models.md; ``pytest tests/test_every_model.py --regen`` writes it anew.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_derrd import run_recbole_derrd
from recbole_derrd.adapters import ADAPTERS
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.recbole_compat.models import general_models, missing_package
from recbole_derrd.student.model import DistilledMixin

pytestmark = pytest.mark.whole_run

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
MODELS = sorted(general_models(), key=str.lower)
DISTILLATION = {"rrd_k": 4, "rrd_l": 4, "rrd_top_n": 10, "de_num_experts": 3, "compare_student": False}

#: What a user should know of a model, beyond what the runs show.
REMARKS = {
    "ADMMSLIM": "its predictions carry random noise of 1e-5; the teacher's rankings are made without it",
    "ConvNCF": "a convolution for each pair: slow; hint layer is not its score",
    "DiffRec": "as a student, the term runs all reverse steps",
    "DMF": "its last layer is a relu, so a unit may be dead",
    "ENMF": "trained on whole users, so DE cannot teach it",
    "FISM": "its own loss applies the sigmoid twice; distillation uses the logits",
    "GCMC": "ranks by class 1 of its decoder, before the softmax",
    "LDiffRec": "`n_cate` above 1 needs kmeans_pytorch and item_emb.npy",
    "NAIS": "attends over the user's whole history for each pair: slow",
    "NCL": "needs faiss to be trained: `pip install faiss-cpu`",
    "NeuMF": "hint layers may be joined: `de_hint: gmf+mlp`",
    "NNCF": "`neigh_info_method: random` only: RecBole 1.2.1's knn fails, louvain needs python-louvain; hint layer is "
    "not its score",
    "Random": "one random ranking for all users",
    "RaCT": "trains `pretrain_epochs` epochs without validation, unless `train_stage: finetune`",
    "RecVAE": "as a student, its log shows the sum of the terms",
    "SGL": "propagates two more graphs a step, for its own loss",
    "SimpleX": "its score is a cosine, within [-1, 1]",
}

#: What this session saw, by model and role.
SEEN: dict[tuple[str, str], str] = {}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the module, so that the BPR teacher is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def terms(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """Return the loss terms of each step of the run."""
    steps: list[dict[str, float]] = []
    own = DistilledMixin.calculate_loss

    def spied(self: Any, *args: Any, **kwargs: Any) -> Any:
        losses = own(self, *args, **kwargs)
        steps.append({name: float(value) for name, value in self.last_terms.items()})
        return losses

    monkeypatch.setattr(DistilledMixin, "calculate_loss", spied)
    return steps


def run(settings: dict[str, Any], cache: Path, tmp_path: Path, **more: Any) -> dict[str, Any]:
    """Run one experiment with strong terms, so that they move the weights."""
    own = {"cache_dir": str(cache), "record_dir": str(tmp_path / "records"), "latency_users": 2}
    weights = {"de_weight": 0.5, "rrd_weight": 0.5}
    return run_recbole_derrd(dataset="tiny", config_dict={**settings, **own, **DISTILLATION, **weights, **more})


def check_run(record: dict[str, Any], steps: list[dict[str, float]], methods: list[str]) -> None:
    """The run has ended well: a record, finite terms of every method, finite metrics, a checkpoint."""
    assert Path(record["path"]).is_file() and Path(record["checkpoints"]["student"]).is_file()
    assert record["distillers"] == methods
    assert steps and all(math.isfinite(value) for step in steps for value in step.values())
    for method in methods:
        assert all(step[method] > 0 for step in steps)
    for who in ("teacher", "distilled"):
        assert all(0 <= value <= 1 for part in ("valid", "test") for value in record[who][part].values())
        assert record[who]["valid"] and record[who]["test"]


def weights_that_moved(record: dict[str, Any], settings: dict[str, Any]) -> set[str]:
    """Names of the student's weights that differ from those that it started with."""
    model = record["model"]
    config = DistillConfig(model, "tiny", config_dict=settings)
    start = build_model(config, prepare_data(config)).state_dict()
    # The run of a test's own making: the whole pickle may be loaded.
    end = torch.load(record["checkpoints"]["student"], weights_only=False)["state_dict"]
    assert start.keys() == end.keys()
    assert all(torch.isfinite(value).all() for value in end.values())
    return {name for name in start if not torch.equal(start[name], end[name])}


def skip_without_package(model: str) -> None:
    if missing_package(model):
        pytest.skip(missing_package(model))


@pytest.mark.parametrize("model", MODELS)
def test_as_teacher(model: str, cache: Path, tmp_path: Path, tiny_settings: Any, terms: list[dict[str, float]]) -> None:
    skip_without_package(model)
    methods = ["de", "rrd"] if ADAPTERS[model].hints else ["rrd"]
    own = tiny_settings(model)
    student = tiny_settings("BPR")
    teacher = {key: value for key, value in own.items() if key not in student or student[key] != value}
    record = run(student, cache, tmp_path, model="BPR", teacher_model=model, teacher=teacher, distillers=methods)
    check_run(record, terms, methods)
    assert record["teacher"]["model"] == model
    assert weights_that_moved(record, student) == {"user_embedding.weight", "item_embedding.weight"}
    SEEN[model, "teacher"] = " + ".join(method.upper() for method in methods)


@pytest.mark.parametrize("model", MODELS)
def test_as_student(model: str, cache: Path, tmp_path: Path, tiny_settings: Any, terms: list[dict[str, float]]) -> None:
    adapter, settings = ADAPTERS[model], tiny_settings(model)
    if not adapter.trainable:
        with pytest.raises(OptionError, match=f"{model} is not trained by gradients and cannot be a student"):
            run(settings, cache, tmp_path, model=model, teacher_model="BPR", distillers=["rrd"])
        SEEN[model, "student"] = "no: not trained by gradients"
        return
    skip_without_package(model)
    methods = ["de", "rrd"]
    if not adapter.hints or model == "ENMF":
        with pytest.raises(OptionError, match=r"de needs .*\[rrd, .*\]"):
            run(settings, cache, tmp_path, model=model, teacher_model="BPR", distillers=methods)
        methods = ["rrd"]
    record = run(settings, cache, tmp_path, model=model, teacher_model="BPR", distillers=methods)
    check_run(record, terms, methods)
    assert record["model"] == model and record["teacher"]["model"] == "BPR"
    assert weights_that_moved(record, settings)
    SEEN[model, "student"] = " + ".join(method.upper() for method in methods)


def page(seen: dict[tuple[str, str], str]) -> str:
    """Render docs/models.md."""
    lines = [
        "# Models",
        "",
        "Every general recommender of RecBole 1.2.1, as teacher and as student. `pytest tests/test_every_model.py",
        "--regen` writes the table from runs on a tiny data set. Each model runs as the teacher of a BPR student",
        "and as the student of a BPR teacher. The tests fail if the table differs from the runs.",
        "",
        "- [RRD](methods/rrd.md) needs scores. Every model can be its teacher, and every model that is trained by",
        "  gradients its student.",
        "- CD, DCD, RD, IR-RRD, listwise, RCE-KD, UnKD, HetComp and SLD need scores too, and work wherever RRD does;",
        "  DCD's item side (`dcd_item_weight`) needs a student with embeddings.",
        "  FTD, HTD, NKD, CPD and FreqD work wherever DE does (`tests/distillers/test_every_adapter.py` tests both).",
        "- [DE](methods/de.md) needs user and item embeddings of teacher and student, and the items of a batch.",
        "  *Embeddings* names the hint layers that `de_hint` (student) and `de_teacher_hint` (teacher) accept, the",
        "  default first (for NKD and FreqD: `ego` if the model has it). A dash means that DE cannot use the model.",
        "",
        "| Model | As teacher | As student | Embeddings (hint layers) | Needs / remarks |",
        "|---|---|---|---|---|",
    ]
    for model in MODELS:
        hints = ", ".join(f"`{hint}`" for hint in ADAPTERS[model].hints) or "-"
        row = [model, seen[model, "teacher"], seen[model, "student"], hints, REMARKS.get(model, "")]
        lines.append(f"| {' | '.join(row)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def row_of(text: str, model: str) -> list[str]:
    found = [line for line in text.splitlines() if line.startswith(f"| {model} |")]
    assert len(found) == 1, f"docs/models.md must have one row for {model}"
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_page_says_what_was_seen(request: pytest.FixtureRequest) -> None:
    regen = request.config.getoption("--regen")
    unseen = [(model, role) for model in MODELS for role in ("teacher", "student") if (model, role) not in SEEN]
    lacking = sorted({model for model, _ in unseen if missing_package(model) is None})
    if lacking:
        say = pytest.fail if regen else pytest.skip
        say(f"the table needs the whole file to run and to pass; not seen: {', '.join(lacking)}")
    # A model that cannot run here for want of a package keeps the cells of the last machine that had it.
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    seen = dict(SEEN)
    for model, role in unseen:
        seen[model, role] = row_of(text, model)[1 if role == "teacher" else 2]
    if regen:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(seen), encoding="utf-8")
    elif page(seen) != text:
        pytest.fail("docs/models.md is not what the runs show; run: pytest tests/test_every_model.py --regen")
