"""Options of the whole run: which methods, which teacher, where results go."""

from __future__ import annotations

import dataclasses
from typing import Any

from recbole_derrd.config.options.schema import AUTO, Options, option
from recbole_derrd.errors import OptionError, did_you_mean

Text = (str, type(None))

#: Quicker ways that give RecBole's numbers to the bit, and those that give them within float32's rounding.
FAST_EXACT = ("batches", "ranking")
FAST_ROUNDED = ("adam", "rows", "graph", "scores")
#: What computes distillation terms together with their gradients; of no effect on plain models.
FAST_DISTILLED = ("kernels",)
#: Models whose training turns one rounding into other scores, so that they end near no other run but an exact one.
AMPLIFYING = frozenset({"DMF"})


@dataclasses.dataclass(frozen=True)
class RunOptions(Options):
    """Options without a method's prefix."""

    distillers: list[str] = option([], "Distillation methods, e.g. [de, rrd]; empty is plain RecBole training.")
    base_weight: float = option(
        1.0, "Weight of the student's own loss beside the methods' terms; 0 leaves distillation alone.", low=0
    )
    teacher_model: str | None = option(None, "Teacher's RecBole model; the student's where none is given.", kind=Text)
    teacher: dict[str, Any] = option({}, "RecBole keys of the teacher that differ from the student's.")
    teacher_checkpoint: str | None = option(
        None, "A trained teacher: our checkpoint or a stock RecBole .pth file.", kind=Text
    )
    teacher_export: str | None = option(
        None,
        "A teacher that comes as files: a folder that 'recbole-derrd export' has written, or embeddings or rankings "
        "with ids (Parquet, .npz, .csv), whatever has made them. In teachers: {export: FOLDER}.",
        kind=Text,
    )
    teacher_trusted: bool = option(
        False,
        "Take a teacher checkpoint or export without proof that it was trained on this run's split; the record says "
        "so. In teachers: trusted, beside checkpoint.",
    )
    teachers: list[Any] = option(
        [],
        "Several teachers, each a RecBole model, or its keys with model, checkpoint or export among them: [BPR, "
        "{model: LightGCN, embedding_size: 64}, {checkpoint: x.pth}, {export: FOLDER}]; teacher holds for all that are "
        "trained.",
    )
    teacher_refine: bool | dict[str, Any] = option(
        False,
        "Train the teacher further before it teaches: a BPR of its own size learns from it and from the users' own "
        "items over the whole catalogue, is often better, and then teaches in its place; the table has both. True, or "
        "settings of that training: {epochs: 20}. It has the run's seed, also where the teacher's is fixed, unless it "
        "is given one here: {seed: 2020}.",
        kind=(bool, dict),
    )
    teacher_snapshots: int = option(
        4,
        "Snapshots of each teacher whose rankings are kept for methods that follow its training, at equal shares of "
        "the way to its best epoch, which is the last of them.",
        low=1,
    )
    ensemble_top_n: int = option(
        500,
        "Items of each teacher's ranking that count in the ensemble of several teachers; all others rank behind. "
        "HetComp fuses rankings of its own length, hetcomp_top_n.",
        low=1,
    )
    ensemble_weighting: str = option(
        "power",
        "What a rank r counts in the ensemble: power is r^-p, less what the first unlisted rank counts; exponential is "
        "exp(-r / 10).",
        choices=("power", "exponential"),
    )
    ensemble_power: float = option(0.05, "Exponent p of ensemble_weighting power.", above=0, high=5)
    teacher_scale: float | str = option(
        1.0,
        "What the teacher's scores are multiplied by where methods read them and where a student starts at them; "
        "rankings and embeddings stay. auto multiplies where a user's best score is less than 4 or more than 10 above "
        "the median one, to 5: a softmax of the scores as they are would teach the best item alone, or nothing.",
        above=0,
        choices=(AUTO,),
        kind=(float, str),
    )
    warm_start: str = option(
        "none",
        "Where the distilled student starts: as RecBole draws it (none), or at the truncated SVD of the scores of its "
        "teacher, which must be of at least its dimensions; of several, the best that can (svd; students BPR, LINE, "
        "LightGCN).",
        choices=("none", "svd"),
    )
    student_bits: int = option(
        32,
        "Bits a dimension of the distilled student's items while it is trained: every loss sees what the codes stand "
        "for: 8, 4, 3, 2 or 1; 32 is float32, the ordinary training.",
        low=1,
        high=32,
    )
    user_bits: int = option(32, "The same of its users.", low=1, high=32)
    student_codebooks: int = option(
        0,
        "Codebooks of the distilled student's items, in place of bits: an item is a sum of codewords, one of the 256 "
        "of each codebook, and takes a byte a codebook. The codes are found where the student starts (warm_start: svd) "
        "and stay; the codebooks are trained. They are stored once, so they pay where items are many. 0 is none. For "
        "students BPR and LINE.",
        low=0,
        high=256,
    )
    student_rotation: str = option(
        "learned",
        "How the tables of a student in few bits are turned before its training begins: learned is the rotation that "
        "loses least when the start is quantised; for models whose score is the dot product of two tables.",
        choices=("learned", "random", "none"),
    )
    learning_rate_end: float | None = option(
        None,
        "Learning rate of the distilled student's last epoch, to which it falls by one factor an epoch; RecBole's "
        "constant learning_rate if none.",
        above=0,
        kind=(float, int, type(None)),
    )
    store_bits: int = option(
        0,
        "Bits a dimension (8, 4, 3, 2 or 1) in which the finished student's embeddings are stored as well, evaluated, "
        "and written as an export beside its checkpoint, for models of two embeddings; 0 stores nothing.",
        low=0,
        high=8,
    )
    store_users: bool = option(True, "Whether store_bits goes for the users' embeddings too; else they stay float32.")
    compare_student: bool = option(True, "Also train the same student without distillation, for comparison.")
    record_dir: str = option("records", "Folder of the run records (one JSON file a run).")
    cache_dir: str | None = option(
        None,
        "Folder of trained teachers, plain students and knowledge; <checkpoint_dir>/cache if none.",
        kind=Text,
    )
    split_seed: int | None = option(
        None,
        "Seed of the data's split alone, so that seed varies the training on one split; RecBole's way if none: seed "
        "decides both.",
        low=0,
        high=2**32 - 1,
        kind=(int, type(None)),
    )
    candidates_seed: int | None = option(
        None,
        "Seed of the candidates of eval_args mode fixedN; split_seed, else the run's seed, if none.",
        kind=(int, type(None)),
    )
    candidates_file: str | None = option(
        None, "File (.npy) of the candidates, written where it is missing; in cache_dir if none.", kind=Text
    )
    knowledge_batch_size: int = option(
        0, "Users scored at once while the teacher's rankings are built; 0 sizes it to the catalogue.", low=0
    )
    knowledge_search: str = option(
        "exact",
        "How the teacher's rankings are searched; faiss is approximate, for teachers with embeddings and large "
        "catalogues (pip install 'recbole_derrd[ann]').",
        choices=("exact", "faiss"),
    )
    fast: str | list[str] = option(
        "auto",
        "Quicker steps with RecBole's result: batches, ranking (the same to the bit), adam, rows, graph, scores, and "
        "kernels, those of distillation terms (within rounding). auto: all for teachers and distilled students, exact "
        "ones for plain students; all; none; a list. DMF, which amplifies rounding, takes exact ones only, unless it "
        "is distilled.",
        kind=(str, list),
    )
    threads: int = option(
        0, "CPU threads of torch; 0 leaves it its choice. One is fastest for small data.", low=0, high=1024
    )
    resume: bool = option(False, "Go on from the training checkpoint of an interrupted run, if there is one.")
    checkpoint_step: int = option(10, "Validations between two training checkpoints.", low=1)
    distill_seed: int | None = option(
        None, "Seed of the distillers' own sampling; the run's seed if none.", kind=(int, type(None))
    )
    benchmark: dict[str, Any] = option(
        {}, "Written by `recbole-derrd benchmark`: which of its experiments this run is; goes into the record."
    )
    verbose: bool = option(False, "Show on the console what the log file has: settings, data, models, every epoch.")
    latency_users: int = option(200, "Users whose single request is timed for the table; 0 leaves latency out.", low=0)

    def __post_init__(self) -> None:
        """Check the parts of ``fast``."""
        super().__post_init__()
        for key in ("student_bits", "user_bits"):
            if getattr(self, key) not in (1, 2, 3, 4, 8, 32):
                raise OptionError(
                    f"Option '{key}' must be 8, 4, 3, 2 or 1, or 32 for float32, but is {getattr(self, key)}."
                )
        self._check_codebooks()
        if self.teacher_refine == {}:
            # No settings are the plan's own.
            object.__setattr__(self, "teacher_refine", True)
        self._check_teachers()
        parts = [self.fast] if isinstance(self.fast, str) else self.fast
        known = ("auto", "all", "none") if isinstance(self.fast, str) else FAST_EXACT + FAST_ROUNDED + FAST_DISTILLED
        for part in parts:
            if part not in known:
                raise OptionError(
                    f"Option 'fast' cannot be or hold '{part}'.{did_you_mean(str(part), known)} It is auto, all, none, "
                    f"or a list of {', '.join(FAST_EXACT + FAST_ROUNDED + FAST_DISTILLED)}."
                )

    @property
    def codes_items(self) -> bool:
        """Whether the student's items are trained in few bits or in codebooks."""
        return self.student_bits < 32 or self.student_codebooks > 0

    def _check_codebooks(self) -> None:
        if self.student_codebooks and self.student_bits < 32:
            raise OptionError(
                "student_codebooks and student_bits both say how the student's items are stored: take one of them out."
            )
        if self.student_codebooks and self.warm_start == "none":
            raise OptionError(
                "student_codebooks codes the items where the student starts, and codes of random numbers teach "
                "nothing: set warm_start: svd."
            )

    def _check_teachers(self) -> None:
        if self.teacher_export is not None:
            for key in ("teacher_model", "teacher_checkpoint", "teachers"):
                if getattr(self, key):
                    raise OptionError(f"teacher_export and {key} both name the teacher: take one of them out.")
        if not self.teachers:
            return
        for key in ("teacher_model", "teacher_checkpoint"):
            if getattr(self, key) is not None:
                raise OptionError(f"{key} names one teacher and teachers several: take one of them out.")
        known: list[dict[str, Any]] = []
        for number, entry in enumerate(self.teachers, 1):
            own = _checked_teacher(entry, number)
            if own in known:
                raise OptionError(
                    f"The teacher {entry!r} is given twice. Take it out, or give it another seed and the run a "
                    "split_seed, so that both are trained on one split."
                )
            known.append(own)

    def fast_parts(self, model: str, teacher: bool) -> frozenset[str]:
        """Return the quicker ways that a model of this run takes.

        Args:
            model: RecBole's name of the model.
            teacher: whether the model is a teacher.
        """
        if isinstance(self.fast, list):
            parts = frozenset(self.fast)
        elif self.fast == "none":
            return frozenset()
        else:
            plain = self.fast == "auto" and not self.distillers and not teacher
            parts = frozenset(FAST_EXACT if plain else FAST_EXACT + FAST_ROUNDED + FAST_DISTILLED)
        # A distilled student has no counterpart in stock RecBole.
        return parts.intersection(FAST_EXACT) if model in AMPLIFYING and not self.distillers else parts


def _checked_teacher(entry: Any, number: int) -> dict[str, Any]:
    """Return the keys of one of several teachers.

    Raises:
        OptionError: it is none.
    """
    if not isinstance(entry, (str, dict)):
        raise OptionError(
            f"Each of the teachers is a model's name or a dict of its keys, e.g. {{model: BPR, embedding_size: "
            f"64}}; number {number} is {entry!r}."
        )
    own = {"model": entry} if isinstance(entry, str) else entry
    for key in ("model", "checkpoint", "export"):
        if not isinstance(own.get(key, ""), str):
            raise OptionError(f"'{key}' of teacher number {number} must be a text, but is {own[key]!r}.")
    if "export" in own and len(own) > 1:
        others = ", ".join(str(key) for key in own if key != "export")
        raise OptionError(
            f"Teacher number {number} comes as files (export), which no other key changes: take out {others}."
        )
    if not isinstance(own.get("trusted", False), bool) or ("trusted" in own and "checkpoint" not in own):
        raise OptionError(
            f"'trusted' of teacher number {number} stands beside a checkpoint and is True or False: a "
            "teacher that is trained here has seen this run's split."
        )
    return own
