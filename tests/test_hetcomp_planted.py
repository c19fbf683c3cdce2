"""HetComp end to end: two teachers who each know half of the users' tastes, and a student who must beat both."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planted import GROUPS, group_of_item, group_of_user, write_planted

from recbole_derrd.adapters import Adapter, adapter_of
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.student.model import build_student
from recbole_derrd.teacher import (
    BuildSettings,
    Ensemble,
    EnsembleKnowledge,
    GivenTeacher,
    RankWeighting,
    StoredKnowledge,
    knowledge_folder,
)
from recbole_derrd.teacher.exact import ExactSearch
from recbole_derrd.training.trainer import trainer_for

LISTED, WHIMS = 60, 16


def groups(data: Data) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the planted group of each user and item, -1 for padding."""
    found = []
    for field, group in ((data.dataset.uid_field, group_of_user), (data.dataset.iid_field, group_of_item)):
        tokens = data.dataset.field2id_token[field]
        found.append(np.array([-1, *(group(token) for token in tokens[1:])]))
    return found[0], found[1]


def teacher(config: DistillConfig, data: Data, known: range, noise: float) -> Adapter:
    """Return a BPR that knows the tastes of these groups' users, more or less, and of all others nothing."""
    users, items = groups(data)
    draw = torch.Generator().manual_seed(known[0])
    model = build_model(config.derived("BPR", {"embedding_size": GROUPS + WHIMS}), data)
    knows = torch.from_numpy(np.isin(users, known)).unsqueeze(1)
    taste = torch.eye(GROUPS)[torch.from_numpy(users).clamp(min=0)]
    with torch.no_grad():
        for table, of_group, whim in (
            (model.user_embedding.weight, knows * taste, torch.where(knows, noise, 1.0)),
            (model.item_embedding.weight, torch.eye(GROUPS)[torch.from_numpy(items).clamp(min=0)], torch.ones(1)),
        ):
            table.copy_(torch.cat([5 * of_group, whim * torch.randn(len(table), WHIMS, generator=draw)], dim=1))
    return adapter_of(model.eval())


def knowledge_of(folder: Path, config: DistillConfig, data: Data) -> EnsembleKnowledge:
    """Return what two teachers know, each with an earlier snapshot that guesses more."""
    members = []
    for half in (range(GROUPS // 2), range(GROUPS // 2, GROUPS)):
        final, earlier = (functools.partial(teacher, config, data, half, noise=noise) for noise in (0.1, 2.0))
        source = GivenTeacher(final, earlier=(earlier,))
        members.append(StoredKnowledge(folder / str(half[0]), source, data.history, BuildSettings(snapshots=2)))
    ensemble = Ensemble(members, config, data.train._dataset, RankWeighting(), count=LISTED)
    own = knowledge_folder(folder, ensemble.key, data.fingerprint.train)
    return EnsembleKnowledge(own, ensemble, data.history)


def share_of_own_group(rankings: np.ndarray[Any, Any], data: Data) -> float:
    """Return how many of each user's ten best unobserved items are of the user's own group."""
    users, items = groups(data)
    return float((items[rankings[1:, :10]] == users[1:, None]).mean())


def test_the_student_knows_more_than_each_teacher(tmp_path: Path) -> None:
    settings = {
        "data_path": str(write_planted(tmp_path / "data", liked=4, noise=4)),
        "checkpoint_dir": str(tmp_path / "saved"),
        "embedding_size": GROUPS, "learning_rate": 0.01, "epochs": 40, "stopping_step": 40, "train_batch_size": 256,
        "eval_batch_size": 40_000, "metrics": ["NDCG"], "topk": [10], "valid_metric": "NDCG@10",
        "show_progress": False, "state": "WARNING", "distillers": ["hetcomp"], "base_weight": 0,
        "hetcomp_k": 12, "hetcomp_top_n": LISTED, "hetcomp_discrepancy_k": 12,
        "hetcomp_interval": 3, "hetcomp_observed": 2,
    }  # fmt: skip
    config = DistillConfig("BPR", "planted", config_dict=settings)
    data = prepare_data(config)
    knowledge = knowledge_of(tmp_path / "knowledge", config, data)
    of_each = [share_of_own_group(member.top_items(LISTED), data) for member in knowledge.members]
    assert all(0.4 < share < 0.65 for share in of_each)

    # The ensemble cannot tell who knows; the student can, for what the ignorant say has no structure to learn.
    together = share_of_own_group(knowledge.top_items(10), data)
    assert together < 0.7
    student = build_student(config, data, knowledge)
    trainer = trainer_for(config, student, checkpoint=tmp_path / "student.pth")
    trainer.fit(data.train, data.valid)
    (method,) = student.distillers
    # The way there: all begin at the first snapshots, nobody goes back, and all arrive.
    last = [entry[1]["teacher0/snapshot1"] for entry in trainer.progress["hetcomp"]]
    assert last[0] == 0 and last == sorted(last) and last[-1] == 1 and method.in_fine_order

    with torch.no_grad():
        search = ExactSearch(adapter_of(student.eval()), data.history, 10)
        own = np.concatenate([np.zeros((1, 10), np.int32), search.rankings(1, data.history.n_users).numpy()])
    learnt = share_of_own_group(own, data)
    assert learnt > max(*of_each, together) + 0.1, (learnt, together, of_each)
