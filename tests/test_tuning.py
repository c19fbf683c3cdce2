"""RecBole's HyperTuning over our objective, with the hyperopt of the extra ``tune``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable

import pytest
import yaml

from recbole_derrd import objective_function

Settings = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("search", ["exhaustive", "random", "bayes"])
def test_each_search_finds_the_best(search: str, tiny_settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("hyperopt")
    from recbole.trainer import HyperTuning

    kept = tmp_path / "kept.yaml"
    teacher = {"embedding_size": 16, "learning_rate": 0.01}
    lists = {"rrd_k": 4, "rrd_l": 4, "rrd_top_n": 8}
    own = {"dataset": "tiny", "distillers": ["rrd"], "teacher": teacher, "latency_users": 0, **lists}
    own["record_dir"] = str(tmp_path / "records")
    kept.write_text(yaml.safe_dump({"model": "BPR", **tiny_settings("BPR", **own)}), encoding="utf-8")
    tuning = HyperTuning(
        objective_function,
        algo=search,
        max_evals=2,
        early_stop=10,
        params_dict={"choice": {"learning_rate": [0.001, 0.1]}},
        fixed_config_file_list=[str(kept)],
    )
    tuning.run()
    assert len(tuning.score_list) == 2 and tuning.best_score == max(tuning.score_list)
    assert tuning.best_params["learning_rate"] in (0.001, 0.1)


def test_the_page_names_the_extra_and_setup_has_it() -> None:
    root = Path(__file__).resolve().parent.parent
    assert 'pip install "recbole_derrd[tune]"' in (root / "docs" / "how-to" / "tune.md").read_text(encoding="utf-8")
    assert re.search(r'"tune": \["hyperopt>=0\.2\.5,<0\.2\.6"\]', (root / "setup.py").read_text(encoding="utf-8"))
