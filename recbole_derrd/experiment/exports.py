"""Teachers that come as files: what a run's methods ask that they cannot give, and what a run cannot show of them."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.distillers import Need
from recbole_derrd.errors import OptionError
from recbole_derrd.model_cache.same_split import FINGERPRINT
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.student.warm_start import check_start_size
from recbole_derrd.teacher import Exported, ExportTeacher, TeacherSpec, read_exported

_SNAPSHOTS = "snapshots of its training"
#: What a teacher's files may lack, and what would do instead.
_INSTEAD = {
    Need.EMBEDDINGS: "embeddings of users and items",
    Need.SCORES: "a score of each item that it ranks",
    Need.TRAJECTORY: _SNAPSHOTS,
}


def check_exports(config: DistillConfig, specs: Sequence[TeacherSpec]) -> list[Exported]:
    """Refuse files that cannot be teachers, or that lack what a method asks for; return what the others hold.

    Raises:
        DataError: the files cannot be read.
        OptionError: the method, what it lacks, and what would do.
    """
    found = [read_exported(spec.export) for spec in specs if spec.export is not None]
    if any(one.embeddings is None for one in found) and config.run_options.knowledge_search != "exact":
        raise OptionError(
            f"knowledge_search: {config.run_options.knowledge_search} needs a teacher with embeddings, and a teacher "
            "of rankings has none. Use knowledge_search: exact."
        )
    for name, options in config.method_options.items():
        for exported in found:
            _refuse_lack(name, options, exported, len(specs) > 1)
        embedded = any(one.embeddings is not None for one in found) or len(found) < len(specs)
        # Of several teachers one with embeddings is enough; whether a model has any is seen with the models.
        if found and not embedded and Need.EMBEDDINGS in method_class(name).needed(options):
            raise OptionError(_lacks(name, found[0], Need.EMBEDDINGS))
    _refuse_start(config, specs, found)
    return found


def _refuse_lack(name: str, options: object, exported: Exported, several: bool) -> None:
    needed = method_class(name).needed(options)
    if Need.TRAJECTORY in needed:
        prefix = getattr(options, "prefix", f"{name}_")
        if getattr(options, "trajectory", True):
            raise OptionError(
                f"{name} follows the training of its teachers, and the teacher '{exported.path}' comes as files, "
                f"without {_SNAPSHOTS}. Set {prefix}trajectory: False, or take a teacher that is trained here "
                "(teacher_model)."
            )
        if exported.embeddings is None:
            raise OptionError(
                f"{name} asks for the teacher's scores of training items, and the teacher '{exported.path}' has "
                f"rankings alone. Give embeddings, or use {_without(Need.TRAJECTORY, Need.EMBEDDINGS, Need.SCORES)}."
            )
    # Several have the scores of their ensemble.
    if Need.SCORES in needed and not exported.has_scores and not several:
        raise OptionError(_lacks(name, exported, Need.SCORES))


def _lacks(name: str, exported: Exported, need: Need) -> str:
    has = "rankings" if exported.has_scores else "rankings without scores"
    lacking = {Need.EMBEDDINGS, Need.TRAJECTORY, *(() if exported.has_scores else (Need.SCORES,))}
    return (
        f"{name} needs {_INSTEAD[need]}, and the teacher '{exported.path}' has {has}. Give files that have them, or "
        f"use {_without(*lacking)}."
    )


def _without(*needs: Need) -> str:
    """Return the built-in methods that, by default, ask for none of these, as a list to write."""
    kinds = {name: method_class(name) for name in METHODS}
    able = [name for name, kind in kinds.items() if not kind.needed(kind.options_class()) & set(needs)]
    return f"distillers that need none: [{', '.join(able)}]"


def _refuse_start(config: DistillConfig, specs: Sequence[TeacherSpec], found: Sequence[Exported]) -> None:
    """Refuse a warm start that only files could give, and cannot."""
    if config.run_options.warm_start == "none" or len(found) < len(specs):
        return
    sizes = [one.embeddings["item"].shape[1] for one in found if one.embeddings is not None]
    if not sizes:
        raise OptionError(
            f"warm_start needs a teacher with embeddings, and '{found[0].path}' has rankings. Take it out, or give "
            "embeddings."
        )
    check_start_size(config["embedding_size"], max(sizes))


def notes_of(teachers: Sequence[object]) -> list[str]:
    """Return what a run cannot show of its teachers from files."""
    notes = []
    for teacher in teachers:
        if not isinstance(teacher, ExportTeacher):
            continue
        if (teacher.trained.split_check or {}).get("by") != FINGERPRINT:
            notes.append(
                f"The teacher '{teacher.path}' comes as files, and nothing shows that it has not seen this run's test "
                "items: its metrics, and the student's, may be better than they would be on new data."
            )
        if not teacher.hints:
            notes.append(
                f"The teacher '{teacher.path}' is not evaluated (-): it has rankings of some items, and no score of "
                "every item."
            )
    return notes


def refuse_partial_start(config: DistillConfig, teacher: ExportTeacher) -> None:
    """Refuse a warm start at a teacher that does not know all: the others would start at nothing.

    Raises:
        OptionError: what to do.
    """
    if config.run_options.warm_start != "none" and teacher.known:
        raise OptionError(
            f"warm_start needs a teacher that knows all of this run's users and items, and '{teacher.path}' does not. "
            "Take warm_start out."
        )
