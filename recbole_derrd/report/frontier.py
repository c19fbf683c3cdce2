"""Quality against bytes an item: of each family of models the best at every number of bytes; a table and a picture."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from recbole_derrd.errors import DataError
from recbole_derrd.evaluation.metrics import bigger_is_better, percent
from recbole_derrd.report.comparison_tables import spread
from recbole_derrd.report.escaping import as_label
from recbole_derrd.report.grouping import groups_of
from recbole_derrd.report.plots import front
from recbole_derrd.report.rows import Group, Row
from recbole_derrd.report.schema import RunRecord
from recbole_derrd.report.table import BEST, Cell, Table
from recbole_derrd.report.titles import SPLITS

#: Bits of a float32 number.
_WHOLE = 32
#: Families in the order of tables and colours, each by its name.
FAMILIES = {
    "trained": "student trained in few bits",
    "trained codebooks": "student trained in codebooks",
    "distilled": "distilled student, float32",
    "quantized afterwards": "distilled student, quantised afterwards",
    "refined": "refined teacher, quantised",
    "codes": "teacher, quantised",
    "codebooks": "teacher, codebooks",
    "svd": "teacher, SVD in float32",
    "plain": "student alone",
}


@dataclasses.dataclass(frozen=True)
class Point:
    """The best of a family at a number of bytes, by the validation split.

    Attributes:
        family: which family, a key of :data:`FAMILIES`.
        row: its row of the test split.
        item_bytes: bytes of an item, scales included, codebooks not.
        among: rows of the family at these bytes that it was chosen from.
    """

    family: str
    row: Row
    item_bytes: float
    among: int


@dataclasses.dataclass(frozen=True)
class Frontier:
    """The points of one group of records.

    Attributes:
        group: its rows, on the test split.
        points: by family and bytes.
    """

    group: Group
    points: tuple[Point, ...]

    @property
    def metric(self) -> str:
        """What quality is."""
        return self.group.headline

    @property
    def teacher(self) -> Row | None:
        """The teacher that everything is compared with: the one of most rows, of several what they are together."""
        taught = Counter(row.teacher for row in self.group.rows.values() if row.teacher)
        return self.group.rows[taught.most_common(1)[0][0]] if taught else None

    def of(self, family: str) -> list[Point]:
        """Return a family's points, fewest bytes first."""
        return sorted((one for one in self.points if one.family == family), key=lambda one: one.item_bytes)

    def front(self, family: str) -> list[Point]:
        """Return a family's points that none of it with fewer bytes is as good as: the others are no use."""
        points = [(one, (one.item_bytes, one.row.mean(self.metric) or 0.0)) for one in self.of(family)]
        kept = front([place for _, place in points], bigger_is_better(self.metric))
        return [one for one, place in points if place in kept]


def frontiers_of(records: Sequence[RunRecord], metric: str | None = None) -> list[Frontier]:
    """Return the frontier of each group of records: of rows that lie in one table.

    Args:
        records: the records.
        metric: what quality is; the records' valid_metric if none.

    Raises:
        DataError: no record says how many bytes an item takes.
    """
    found = []
    for group in groups_of(records, "test", metric):
        families = _families(group)
        by_place: dict[tuple[str, float], list[tuple[Row, float]]] = {}
        for key, family in families.items():
            row = group.rows[key]
            score, size = _on_the_validation_split(row, group.headline), row.number("bytes_per_item")
            if size is not None and score is not None and row.values(group.headline):
                by_place.setdefault((family, round(size, 1)), []).append((row, score))
        sign = 1 if bigger_is_better(group.headline) else -1
        points = []
        for (family, size), rows in by_place.items():
            best, _ = max(rows, key=lambda one: sign * one[1])
            points.append(Point(family, best, size, len(rows)))
        if points:
            order = list(FAMILIES)
            points.sort(key=lambda one: (order.index(one.family), one.item_bytes))
            found.append(Frontier(group, tuple(points)))
    if not found:
        raise DataError("These records say of no model but teachers how many bytes an item takes.")
    return found


def _on_the_validation_split(row: Row, metric: str) -> float | None:
    scores = [entry.model.valid.get(metric, math.nan) for entry in row.distinct()]
    known = [score for score in scores if math.isfinite(score)]
    return statistics.fmean(known) if known else None


def _families(group: Group) -> dict[str, str]:
    """Return the family of each row but the teachers', by the row's key."""
    found: dict[str, str] = {}
    for key, row in group.rows.items():
        if row.role == "teacher":
            continue
        settings = row.settings
        if row.stored_of is not None:
            found[key] = "quantized afterwards" if row.distilled else "plain"
        elif settings.get("compress_method") in ("product", "svd"):
            found[key] = "codebooks" if settings["compress_method"] == "product" else "svd"
        elif settings.get("compress_method", "none") != "none":
            found[key] = "refined" if settings.get("teacher_refine") else "codes"
        elif row.distilled:
            found[key] = _family_of_student(settings)
        else:
            found[key] = "plain"
    return found


def _family_of_student(settings: dict[str, Any]) -> str:
    if settings.get("student_codebooks"):
        return "trained codebooks"
    return "trained" if _in_few_bits(settings, "student_bits") else "distilled"


def _in_few_bits(settings: dict[str, Any], key: str) -> bool:
    bits = settings.get(key)
    return isinstance(bits, int) and bits < _WHOLE


def codebook_bytes(row: Row, users: int | None, items: int | None) -> float | None:
    """Return the bytes of a row's codebooks, shared out over the items; 0 without, None where they are not known.

    Args:
        row: the row.
        users: of the data, the padding left out; in float32.
        items: of the data, the padding left out.
    """
    settings = row.settings
    if not settings.get("student_codebooks") and settings.get("compress_method") != "product":
        return 0.0
    size = settings.get("compress_size") or settings.get("embedding_size")
    whole, own = row.number("bytes"), row.number("bytes_per_item")
    coded_users = _in_few_bits(settings, "user_bits") or settings.get("compress_users")
    if size is None or whole is None or own is None or users is None or items is None or coded_users:
        return None
    return float(whole - 4 * size * (users + 1) - own * (items + 1)) / items


def frontier_table(frontier: Frontier) -> Table:
    """Return the table: of each family, at every number of bytes, the row that is best on the validation split."""
    group, metric, teacher = frontier.group, frontier.metric, frontier.teacher
    whole = teacher.mean(metric) if teacher else None
    data = group.records[0].data
    shared = {one.row.key: codebook_bytes(one.row, data.users, data.items) for one in frontier.points}
    codebooks = any(shared.values())
    more = ["codebooks, bytes an item"] if codebooks else []
    head = ["bytes an item", *more, "", "runs", metric, "of the teacher", "chosen from", "training (s)"]

    def line(size: str, row: Row, among: int | None, *, best: bool) -> list[Cell]:
        cells, own = _line(size, row, metric, whole, among, best=best), shared.get(row.key, 0.0)
        return [cells[0], *([Cell("-" if own is None else f"{own:,.0f}")] if codebooks else []), *cells[1:]]

    sizes = sorted({round(one.item_bytes) for one in frontier.points})
    rows = []
    if teacher is not None:
        size = teacher.number("bytes_per_item")
        rows.append(line(f"{size:,.0f}" if size else "-", teacher, None, best=False))
    sign = 1 if bigger_is_better(metric) else -1
    for size in sizes:
        points = [one for one in frontier.points if round(one.item_bytes) == size]
        top = max(points, key=lambda one: sign * (one.row.mean(metric) or 0.0))
        rows += [line(f"{size:,}", one.row, one.among, best=one is top) for one in points]
    notes = [
        "Each row is the best of its family and number of bytes on the validation split, out of as many as "
        f'"chosen from" says. {metric} is that of the test split, mean ± standard deviation over seeds. '
        "Bytes are those of the codes and of a row's scale"
        + (
            ". Codebooks are stored once; the column beside shares their bytes out over the items of these data."
            if codebooks
            else ", without codebooks."
        ),
        "The best row of each number of bytes is in bold.",
    ]
    return Table(f"{group.title}: bytes and quality", head, rows, notes, words=2 + len(more))


def _line(size: str, row: Row, metric: str, whole: float | None, among: int | None, *, best: bool) -> list[Cell]:
    values, seconds = row.values(metric), row.number("train_seconds")
    share = percent(statistics.fmean(values) / whole) if whole and values else "-"
    return [
        Cell(size), Cell(row.label), Cell(str(len(row.distinct()))), Cell(spread(values), BEST if best else ""),
        Cell(share), Cell("-" if among is None else str(among)), Cell("-" if seconds is None else f"{seconds:,.0f}"),
    ]  # fmt: skip


def frontier_figure(frontier: Frontier) -> Any:
    """Draw quality against bytes an item: a line a family, named at its end, of the points of its front."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    group, metric = frontier.group, frontier.metric
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    families = [family for family in FAMILIES if frontier.of(family)]
    ends: list[tuple[float, str, str, Any]] = []
    for place, family in enumerate(families):
        points = frontier.front(family)
        colour = colormaps["viridis"](0.85 * place / max(len(families) - 1, 1))
        xs = [one.item_bytes for one in points]
        means = [one.row.mean(metric) or 0.0 for one in points]
        spreads = [statistics.stdev(values) if len(values := one.row.values(metric)) > 1 else 0.0 for one in points]
        marker, style = "osD^vPX*"[place % 8], "-" if family.startswith("trained") else ("--", ":", "-.")[place % 3]
        axes.errorbar(
            xs, means, yerr=spreads, fmt=marker + style, color=colour, capsize=2,
            linewidth=2.4 if family.startswith("trained") else 1.3, markersize=5,
        )  # fmt: skip
        ends.append((means[-1], FAMILIES[family], marker, colour))
    if frontier.teacher is not None:
        height, size = frontier.teacher.mean(metric) or 0.0, frontier.teacher.number("bytes_per_item")
        axes.axhline(height, color="0.6", linewidth=1, zorder=0)
        ends.append((height, f"teacher, {size:,.0f} B" if size else "teacher", "_", "0.6"))
    axes.set_xscale("log")
    ticks = sorted({round(one.item_bytes) for family in families for one in frontier.front(family)})
    kept = [tick for place, tick in enumerate(ticks) if place == 0 or tick >= 1.25 * ticks[place - 1]]
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("bytes an item (logarithmic)")
    axes.set_ylabel(as_label(f"{metric}, {SPLITS[group.split]} split"))
    axes.spines[["top", "right"]].set_visible(False)
    _name_lines(axes, ends)
    return figure


def _name_lines(axes: Any, ends: list[tuple[float, str, str, Any]]) -> None:
    """Write each line's name and sign at the right, at its last height; names that would touch are moved apart."""
    low, high = axes.get_ylim()
    step = 0.055 * (high - low)
    places = sorted(ends, key=lambda one: one[0])
    heights = [one[0] for one in places]
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + step)
    over = heights[-1] - high
    for place in reversed(range(len(heights))):
        limit = high if place == len(heights) - 1 else heights[place + 1] - step
        heights[place] = min(heights[place], limit) if over > 0 else heights[place]
    for (_, name, marker, colour), height in zip(places, heights):
        across = axes.get_yaxis_transform()
        axes.plot([1.025], [height], marker, color=colour, markersize=5, transform=across, clip_on=False)
        # The sign has the line's colour, which is too light for letters in some.
        axes.annotate(
            name, xy=(1.045, height), xycoords=across, color="0.2", va="center", fontsize="small",
            annotation_clip=False,
        )  # fmt: skip
