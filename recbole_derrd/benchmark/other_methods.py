"""Options of methods that experiments do not use: one line for a benchmark, whose base may be for several."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from recbole_derrd.benchmark.plan import Experiment, Plan
from recbole_derrd.config.other_methods import have, idle_options, keys_of, listed, them
from recbole_derrd.errors import OptionError
from recbole_derrd.registry import method_names


def refuse_typed(plan: Plan) -> None:
    """Refuse options of the command line that no experiment reads.

    Raises:
        OptionError: which, and what to do.
    """
    found = _read_by_none(plan, plan.over)
    if found:
        raise OptionError(_no_experiment(found, "--"))


def note_of(plan: Plan) -> str | None:
    """Return which options of the file have no effect, in one line; None where all have one."""
    # Config files may be for several benchmarks; what some experiments leave unread, for those that are not run today.
    found = {} if plan.options.only else _read_by_none(plan, plan.options.base)
    sentences = [_no_experiment(found)] if found else []
    names: list[str] = []
    idle: dict[str, list[str]] = {}
    for one in plan.experiments:
        own = {key: one.settings[key] for key in one.own.difference(plan.over)}
        unread = idle_options(own, _distillers(one))
        if unread:
            names.append(f"'{one.name}'")
        for method, keys in unread.items():
            idle[method] = list(dict.fromkeys([*idle.get(method, ()), *keys]))
    if idle:
        options = keys_of(idle)
        sentences.append(
            f"{listed(names)}: without {listed(idle)} among the distillers, {listed(options)} {have(options)} no "
            f"effect. Add {listed(idle)} there, or take {them(options)} out."
        )
    return " ".join(sentences) or None


def _read_by_none(plan: Plan, settings: Mapping[str, Any]) -> dict[str, list[str]]:
    return idle_options(settings, {name for one in plan.experiments for name in _distillers(one)})


def _distillers(experiment: Experiment) -> list[str]:
    return [] if experiment.compressed else method_names(experiment.settings.get("distillers"))


def _no_experiment(found: Mapping[str, Collection[str]], dashes: str = "") -> str:
    keys = keys_of(found, dashes)
    return (
        f"No experiment has {listed(found)} among its distillers, so {listed(keys)} {have(keys)} no effect: add such "
        f"an experiment, or take {them(keys)} out."
    )
