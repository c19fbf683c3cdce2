"""The distillation methods by name: where each one's class is. It is imported when it is asked for; no torch here."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from recbole_derrd.errors import OptionError, nearest


class Method(NamedTuple):
    """Where a method is, and what it does in a few words.

    Attributes:
        path: dotted path of its :class:`~recbole_derrd.distillers.base.Distiller` class.
        summary: what help says of it.
    """

    path: str
    summary: str


#: The built-in methods by their names in ``distillers``. A method of one's own is given by its dotted path instead.
METHODS: dict[str, Method] = {
    name: Method(f"recbole_derrd.distillers.{name}.{title}", summary)
    for name, title, summary in (
        ("de", "DistillationExperts", "embeddings, through experts that share the work (DE-RRD's first half)"),
        (
            "rrd",
            "RelaxedRankingDistillation",
            "the order of the teacher's best items, above the others (DE-RRD's second)",
        ),
        ("listwise", "ListwiseDistillation", "softmax cross-entropy with the teacher over the whole catalogue"),
        ("rce_kd", "RejuvenatedCrossEntropy", "softmax cross-entropy over the student's best items and drawn ones"),
        ("cd", "CollaborativeDistillation", "soft labels of unobserved items, drawn by their ranks"),
        ("rd", "RankingDistillation", "the teacher's best items as weighted positives"),
        ("ir_rrd", "ItemSideRankingDistillation", "RRD, and rankings of users for each item"),
        ("dcd", "DualCorrectionDistillation", "the teacher's best items that the student ranks too low or too high"),
        ("unkd", "UnbiasedDistillation", "the order of pairs of items of similar popularity"),
        ("hetcomp", "HeterogeneousDistillation", "rankings of several unlike teachers, easy ones first"),
        ("ftd", "FullTopologyDistillation", "how near a batch's users and items are to each other"),
        ("htd", "HierarchicalTopologyDistillation", "the same within groups that are learned, and between them"),
        ("nkd", "NeighbourhoodDistillation", "embeddings of the teacher's neighbours (MKD's input layer)"),
        ("cpd", "ConsistentPreferenceDistillation", "embeddings whose order survives the mapping (MKD's middle layer)"),
        ("freqd", "FrequencyDistillation", "embeddings, filtered over who shares the most interactions"),
        ("sld", "SoftLabelDistillation", "soft labels of drawn items (MKD's output layer)"),
    )
}
#: Methods that are published under one name.
PUBLISHED_TOGETHER = {"derrd": ("de", "rrd"), "mkd": ("nkd", "cpd", "sld")}


@functools.cache
def method_class(name: str) -> type[Any]:
    """Return the class of a method: a built-in name, or the dotted path of a user's own Distiller.

    Raises:
        OptionError: there is no such method, or it cannot be loaded.
    """
    if name not in METHODS and "." not in name:
        raise OptionError(unknown_method(name))
    module, _, attribute = (METHODS[name].path if name in METHODS else name).rpartition(".")
    try:
        found: type[Any] = getattr(importlib.import_module(module), attribute)
        if not hasattr(found, "options_class"):
            raise AttributeError(f"'{attribute}' is no Distiller, which has its options in 'options_class'")
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise OptionError(f"Cannot load the distiller '{name}': {error}.") from error
    return found


def method_names(given: Any, known: Collection[str] = METHODS) -> list[str]:
    """Read ``distillers``: a list of names, or names in one text.

    Case, ``-`` and ``_`` make no difference, and methods that are published together go by one name: ``DE-RRD`` is de
    and rrd. Dotted paths, and names that are unknown, stay as they are.

    Args:
        given: what the user has written.
        known: names of methods.

    Raises:
        OptionError: these are no names, or one is given twice.
    """
    if isinstance(given, str):
        given = given.replace(",", " ").replace("+", " ").split()
    if given is None:
        return []
    if not isinstance(given, (list, tuple)) or not all(isinstance(name, str) for name in given):
        raise OptionError(f"distillers must be a list of names, e.g. [de, rrd], but is {given!r}.")
    names = [name for one in given for name in _spelt(one, known)]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"The distiller '{name}' is given twice. To make it stronger, raise its weight.")
    return names


def unknown_method(name: str, known: Collection[str] = METHODS) -> str:
    """Return the sentence that there is no such method, with the one that was probably meant."""
    by_plain_name = {
        **{_plain(one): one for one in known},
        **{one: ", ".join(parts) for one, parts in PUBLISHED_TOGETHER.items()},
    }
    match = nearest(_plain(name), by_plain_name)
    hint = f" Did you mean '{by_plain_name[match]}'?" if match else f" Known are: {', '.join(sorted(known))}."
    return f"Unknown distiller '{name}'.{hint} A method of your own is given by its dotted path, package.module.Class."


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.lower())


def _spelt(name: str, known: Collection[str]) -> list[str]:
    """Return the methods that a name stands for."""
    if "." in name:
        return [name]
    if "+" in name:
        return [one for part in name.split("+") for one in _spelt(part, known)]
    by_plain_name = {_plain(one): one for one in known}
    if _plain(name) in by_plain_name:
        return [by_plain_name[_plain(name)]]
    if _plain(name) in PUBLISHED_TOGETHER:
        return list(PUBLISHED_TOGETHER[_plain(name)])
    parts = [by_plain_name.get(_plain(part), "") for part in re.split(r"[-_]", name)]
    return parts if all(parts) else [name]
