"""Plots of a group of records, as SVG or PDF; matplotlib (extra ``plots``) is imported when one is drawn."""

from __future__ import annotations

import importlib.util
import io
import re
import statistics
from pathlib import Path
from typing import Any

from recbole_derrd.errors import OptionError
from recbole_derrd.evaluation.metrics import bigger_is_better
from recbole_derrd.report.escaping import as_label
from recbole_derrd.report.rows import Group, Row
from recbole_derrd.report.schema import ExpertUtilisation
from recbole_derrd.report.titles import SPLITS

#: What to do where matplotlib is missing.
PLOTS_NEED = "Plots need matplotlib: pip install 'recbole_derrd[plots]'."
_MARKERS = "osD^vPX*<>hp"
#: What quality is plotted against: a row's number, the axis, its unit, what the grey line is the best within.
_COSTS = (
    ("bytes", "size of the model", "B", "size"),
    ("bytes_per_item", "bytes an item", "B", "size"),
    ("latency_ms", "time for one user's ranking", "ms", "time"),
)
#: Characters of a file's name; file systems allow 255 bytes.
_NAME = 150


def can_plot() -> bool:
    """Return whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def need_plots() -> None:
    """Refuse to go on without matplotlib.

    Raises:
        OptionError: how to install it.
    """
    if not can_plot():
        raise OptionError(PLOTS_NEED)


def figures_of(group: Group) -> list[tuple[str, Any]]:
    """Return (name, figure) of every plot that the records of a group have the numbers for."""
    need_plots()
    drawn = [("learning-curves", learning_curves(group))]
    drawn += [
        (f"{group.headline.replace('@', '')}-against-{name}", against(group, name, label, unit))
        for name, label, unit, _ in _COSTS
    ]
    for row in group.ordered():
        first = next((found for entry in row.distinct() if (found := entry.expert_utilisations)), {})
        for method, utilisation in first.items():
            name = f"experts-{row.label}" if len(first) == 1 else f"experts-{row.label}-{method}"
            drawn.append((name, expert_map(row, method, utilisation)))
    return [(name, figure) for name, figure in drawn if figure is not None]


def caption_of(group: Group, name: str) -> str:
    """Return in words what the plot of that name shows."""
    if name == "learning-curves":
        return (
            f"{group.chosen_by} on the validation split after each epoch: the mean over seeds, as far as all of them "
            "went. Single seeds are thin."
        )
    for cost, label, _, within in _COSTS:
        if name.endswith(f"-against-{cost}"):
            return (
                f"{group.headline} on the {SPLITS[group.split]} split against {label}, with the standard deviation "
                f"over seeds. Filled: distilled; hollow: not. The grey line is the best within that {within}."
            )
    row = name[len("experts-") :]
    return f"How often {row} chooses each expert, for users of few to many training items. Lighter is more often."


def _colours(count: int) -> list[Any]:
    """Return a colour for each row, dark to light: neighbours differ in grey print too, and none is too pale to see."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * place / max(count - 1, 1)) for place in range(count)]


def _figure(rows: int = 0, width: float = 7.0, height: float = 4.2) -> tuple[Any, Any]:
    """Return a figure and its axes; names of many rows have room beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, max(height, 0.3 + 0.21 * rows)), layout="constrained")
    return figure, figure.add_subplot()


def _name_rows(figure: Any, axes: Any, heights: list[float]) -> None:
    """Name the rows beside the plot, from top to bottom as they lie in it."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: -heights[place])
    figure.legend(
        [handles[place] for place in order], [labels[place] for place in order], loc="outside right upper",
        fontsize="small", frameon=False,
    )  # fmt: skip


def learning_curves(group: Group) -> Any | None:
    """Plot the validation score over the epochs: the mean over seeds, as far as all of them went, over single seeds."""
    found = [(row, [curve for entry in row.distinct() if (curve := entry.curve())]) for row in group.ordered()]
    rows = [(row, curves) for row, curves in found if curves]
    if not rows:
        return None
    figure, axes = _figure(len(rows), width=9.0)
    last, colours = [], _colours(len(rows))
    for place, (row, curves) in enumerate(rows):
        colour = colours[place]
        for curve in curves if len(curves) > 1 else []:
            axes.plot(*zip(*curve), color=colour, alpha=0.2, linewidth=0.8)
        epochs, means = _mean_curve(curves)
        marker = _MARKERS[place % len(_MARKERS)] if len(epochs) == 1 else None
        # Neighbours in colour differ in style.
        style = ("-", "--", ":", "-.")[place % 4]
        axes.plot(epochs, means, style, color=colour, label=as_label(row.label), linewidth=1.6, marker=marker)
        last.append(means[-1])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel(as_label(f"{group.chosen_by}, validation split"))
    _name_rows(figure, axes, last)
    return figure


def _mean_curve(curves: list[list[tuple[int, float]]]) -> tuple[list[int], list[float]]:
    """Return epochs and mean scores, at the epochs that all curves have; where they share none, at those of any."""
    scores = [dict(curve) for curve in curves]
    epochs = sorted(set.intersection(*map(set, scores)) or set.union(*map(set, scores)))
    return epochs, [statistics.fmean(one[epoch] for one in scores if epoch in one) for epoch in epochs]


def against(group: Group, name: str, label: str, unit: str) -> Any | None:
    """Plot each row's quality against its size or latency, with the standard deviation over seeds.

    Distilled rows are filled, the others hollow; the grey line is the best to be had within that size or latency.
    """
    rows = [row for row in group.ordered() if row.number(name) and row.values(group.headline)]
    if not rows:
        return None
    figure, axes = _figure(len(rows), width=9.0)
    points = [(row.number(name) or 0.0, row.mean(group.headline) or 0.0) for row in rows]
    colours = _colours(len(rows))
    axes.step(*zip(*front(points, bigger_is_better(group.headline))), where="post", color="0.8", zorder=0)
    for place, (row, point, colour) in enumerate(zip(rows, points, colours)):
        values = row.values(group.headline)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.errorbar(
            *point, yerr=spread, fmt=_MARKERS[place % len(_MARKERS)],
            color=colour, mfc=colour if row.distilled else "white", label=as_label(row.label), capsize=3,
        )  # fmt: skip
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis, unit)
    axes.set_xlabel(label)
    axes.set_ylabel(as_label(f"{group.headline}, {SPLITS[group.split]} split"))
    _name_rows(figure, axes, [height for _, height in points])
    return figure


def front(points: list[tuple[float, float]], bigger: bool) -> list[tuple[float, float]]:
    """Return the points that nothing of their cost or less is better than, from the cheapest on.

    Example:
        >>> front([(80, 0.41), (22, 0.42), (800, 0.43)], bigger=True)
        [(22, 0.42), (800, 0.43)]
    """
    line: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1] if bigger else point[1])):
        if not line or (quality > line[-1][1] if bigger else quality < line[-1][1]):
            line.append((cost, quality))
    return line


def _plain_ticks(axis: Any, unit: str) -> None:
    """Label an axis of factors at 1, 2 and 5 times a power of ten, each with its unit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: with_unit(value, unit)))


def with_unit(value: float, unit: str) -> str:
    """Return a number as a tick of an axis; bytes take a prefix, other units none.

    Example:
        >>> with_unit(20000, "B"), with_unit(0.02, "ms")
        ('20 kB', '0.02 ms')
    """
    prefix = ""
    if unit == "B":
        for factor, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= factor:
                value, prefix = value / factor, name
                break
    return f"{value:g} {prefix}{unit}"


def expert_map(row: Row, method: str, utilisation: ExpertUtilisation) -> Any:
    """Plot how often each expert is chosen, by groups of users from little to much activity."""
    matrix = utilisation.mean_utilisation
    figure, axes = _figure(height=1.6 + 0.35 * len(matrix))
    image = axes.imshow(matrix, aspect="auto", cmap="viridis", vmin=0)
    axes.set_xlabel("expert")
    axes.set_yticks(range(len(matrix)), [f"{low}-{high}" for low, high in utilisation.activity])
    axes.set_ylabel("training items")
    axes.set_title(
        as_label(f"{row.label}: mean utilisation of {utilisation.side} experts ({method})"), fontsize="medium"
    )
    figure.colorbar(image)
    return figure


def as_svg(figure: Any) -> str:
    """Return a figure as an SVG element that may stand in an HTML page: no head, no link to anywhere."""
    import matplotlib

    written = io.StringIO()
    # Text stays text, and the same figure gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "recbole_derrd"}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    element = written.getvalue()
    element = element[element.index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>\s*", "", element, flags=re.DOTALL)


def save_figures(group: Group, folder: Path, kind: str, prefix: str) -> list[tuple[Path, str]]:
    """Write every plot of a group into a folder; return (file, caption) of each.

    Args:
        group: the records.
        folder: where to.
        kind: "svg" or "pdf".
        prefix: what the files' names begin with.
    """
    written: list[tuple[Path, str]] = []
    for name, figure in figures_of(group):
        plain = prefix + re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:_NAME]
        path = folder / f"{plain}.{kind}"
        number = 1
        # Names may differ in other letters alone, and some file systems do not tell large letters from small.
        while str(path).lower() in {str(other).lower() for other, _ in written}:
            number += 1
            path = folder / f"{plain}-{number}.{kind}"
        if kind == "svg":
            path.write_text(as_svg(figure) + "\n", encoding="utf-8")
        else:
            figure.savefig(path, format=kind)
        written.append((path, caption_of(group, name)))
    return written
