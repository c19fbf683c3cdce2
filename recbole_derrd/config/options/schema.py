"""Dataclasses as flat, typed, ranged RecBole options."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from recbole_derrd.errors import OptionError, did_you_mean

Self = TypeVar("Self", bound="Options")


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    kind: type | tuple[type, ...] | None = None,
    idle: tuple[str, Any] | None = None,
) -> Any:
    """Declare one option: its default, meaning and limits.

    Args:
        default: the value where the user says nothing; its type is the option's type unless ``kind`` says otherwise.
        doc: one sentence for ``--help`` and the documentation.
        low: smallest value allowed.
        high: largest value allowed.
        above: exclusive lower limit.
        choices: the only strings allowed.
        kind: type or types accepted.
        idle: another option of the same method and its value, with which nothing reads this one.
    """
    kinds = kind if kind is not None else type(default)
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    return dataclasses.field(
        default_factory=lambda: copy.copy(default),
        metadata={
            "doc": doc,
            "low": low,
            "high": high,
            "above": above,
            "choices": choices,
            "kinds": kinds,
            "idle": idle,
        },
    )


#: The share of a batch that a method finds itself, see ``Distiller.share``.
AUTO = "auto"


def share(what: str, *, auto: bool) -> Any:
    """Declare the share of some part of a batch that a method looks at.

    Args:
        what: the part, as the sentence of the documentation names it.
        auto: whether the share may be found from the sizes, as it is where the user says none.
    """
    meaning = f"Share of {what}, drawn again in each step; below 1 is faster, with the same term on average."
    if not auto:
        return option(1.0, meaning, above=0, high=1)
    meaning += (
        " auto takes the largest share that costs at most three times the student's own step, but a fixed number of "
        "users or items at least (16; DCD 64, CPD 160, RCE-KD 512); 1 is "
    )
    return option(
        AUTO,
        meaning + "the full sum.",
        above=0,
        high=1,
        choices=(AUTO,),
        kind=(float, str),
    )


def share_of_users(*, auto: bool = False) -> Any:
    """Declare the share of a batch's users that a method looks at; ``auto`` is for methods that state their work."""
    return share("a batch's distinct users that the term looks at", auto=auto)


def share_of_entities(*, auto: bool = False) -> Any:
    """Declare the share of a batch's users and items that a method looks at; ``auto`` as for users."""
    return share("a batch's distinct users and items that the term looks at", auto=auto)


def published(presets: Mapping[str, Mapping[str, Any]]) -> Any:
    """Declare the option ``preset`` of a method, whose values stand in for the method's defaults.

    It is read with the other keys, by ``from_keys``; whoever makes the options in Python gives the values themselves.

    Args:
        presets: the method's options by name. A name is DATASET-STUDENT, with ``-from-TEACHER`` after it where the
            teacher is another model; ``-kds`` in the end says that the values are those of KDs, a toolbox, not of the
            authors' paper or code.
    """
    declared: Any = option(
        None,
        "Published settings that replace the defaults: one of the presets below. Options that you also give take "
        "precedence. Presets that end in kds come from the toolbox KDs, all others from the authors' paper or code.",
        choices=tuple(presets),
        kind=(str, type(None)),
    )
    return dataclasses.field(default=None, init=False, metadata={**declared.metadata, "presets": presets})


def _typed(name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    if bool in kinds and isinstance(value, bool):
        return value
    if isinstance(value, bool):
        pass
    elif int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    elif float in kinds and isinstance(value, int):
        return float(value)
    elif isinstance(value, kinds):
        return value
    wanted = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
    raise OptionError(f"Option '{name}' must be {wanted}, but is {value!r} ({type(value).__name__}).")


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of all option groups. A field ``weight`` of a group with prefix ``de_`` is the RecBole key ``de_weight``."""

    prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check every value against its declaration."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, self._checked(field, getattr(self, field.name)))

    @classmethod
    def _checked(cls, field: dataclasses.Field[Any], value: Any) -> Any:
        name, limits = cls.prefix + field.name, field.metadata
        value = _typed(name, value, limits["kinds"])
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionError(f"Option '{name}' must be a finite number, but is {value}.")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if limits["low"] is not None and value < limits["low"]:
                raise OptionError(f"Option '{name}' must be at least {limits['low']}, but is {value}.")
            if limits["above"] is not None and value <= limits["above"]:
                raise OptionError(f"Option '{name}' must be above {limits['above']}, but is {value}.")
            if limits["high"] is not None and value > limits["high"]:
                raise OptionError(f"Option '{name}' must be at most {limits['high']}, but is {value}.")
        if limits["choices"] is not None and isinstance(value, str) and value not in limits["choices"]:
            raise OptionError(
                f"Option '{name}' cannot be '{value}'.{did_you_mean(value, limits['choices'])}"
                f" It is {'a number or ' if float in limits['kinds'] else ''}one of: {', '.join(limits['choices'])}."
            )
        return value

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """Return the RecBole keys of this group."""
        return tuple(cls.prefix + field.name for field in dataclasses.fields(cls))

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the default of each RecBole key."""
        return cls().to_keys()

    @classmethod
    def presets(cls) -> dict[str, dict[str, Any]]:
        """Return the published settings by their names, as RecBole keys; none of a group without ``preset``."""
        declared = [field.metadata["presets"] for field in dataclasses.fields(cls) if "presets" in field.metadata]
        return {
            name: {cls.prefix + key: value for key, value in own.items()}
            for presets in declared
            for name, own in presets.items()
        }

    @classmethod
    def preset_of(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the published settings that a flat mapping asks for, as RecBole keys; none where it does not.

        Raises:
            OptionError: there is no preset of that name.
        """
        for field in dataclasses.fields(cls):
            name = settings.get(cls.prefix + field.name)
            if "presets" in field.metadata and name is not None:
                return cls.presets()[cls._checked(field, name)]
        return {}

    @classmethod
    def from_keys(cls: type[Self], settings: Mapping[str, Any]) -> Self:
        """Read and check this group's options in a flat mapping; other keys are ignored."""
        settings = {**cls.preset_of(settings), **settings}
        given = {
            field.name: settings[cls.prefix + field.name]
            for field in dataclasses.fields(cls)
            if field.init and cls.prefix + field.name in settings
        }
        made = cls(**given)
        if cls.presets():
            object.__setattr__(made, "preset", settings.get(f"{cls.prefix}preset"))
        return made

    def to_keys(self) -> dict[str, Any]:
        """Return the options as flat RecBole keys."""
        return {self.prefix + field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def describe(cls) -> list[tuple[str, str, Any, str, str]]:
        """Return (key, type, default, limits, meaning) of each option."""
        rows = []
        for field in dataclasses.fields(cls):
            limits = field.metadata
            bounds = []
            # Presets are listed with their values, below the options.
            if limits["choices"] and "presets" not in limits:
                bounds.append(" | ".join(limits["choices"]))
            if limits["low"] is not None:
                bounds.append(f">= {limits['low']}")
            if limits["above"] is not None:
                bounds.append(f"> {limits['above']}")
            if limits["high"] is not None:
                bounds.append(f"<= {limits['high']}")
            kinds = " or ".join("none" if kind is type(None) else kind.__name__ for kind in limits["kinds"])
            default = cls.defaults()[cls.prefix + field.name]
            rows.append((cls.prefix + field.name, kinds, default, ", ".join(bounds), limits["doc"]))
        return rows
