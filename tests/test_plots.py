"""Plots of small synthetic records: what is named in them, and where they lie."""

from __future__ import annotations

import math
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_records import groups_of, made, synthetic, written

from recbole_derrd.cli import main
from recbole_derrd.report.plots import caption_of, figures_of, front, learning_curves, with_unit


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["md", "tex"])
def test_plots_beside_a_text(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    folder = written(tmp_path / "records", synthetic())
    assert main(["report", str(folder), f"--format={kind}", f"--plots={tmp_path / 'plots'}"]) == 0
    files = list((tmp_path / "plots").iterdir())
    assert len(files) == 6 and all(str(file) in capsys.readouterr().out for file in files[:1])


def test_plots_are_found_from_where_the_report_lies_and_none_takes_anothers_name(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    named = [made("DE", 1, 0.4), made("RRD", 1, 0.5)]
    for record, experiment in zip(named, ("DE", "DE+")):
        record["benchmark"]["experiment"] = experiment
    folder, out = written(tmp_path / "records", named), tmp_path / "my notes" / "report.md"
    out.parent.mkdir()
    plots = tmp_path / "my notes" / "all plots"
    assert main(["report", str(folder), f"--out={out}", f"--plots={plots}"]) == 0
    links = re.findall(r"!\[.*?\]\((\S*?)\)", out.read_text(encoding="utf-8"))
    assert len(links) == len(set(links)) == len(list(plots.iterdir())) == 6
    assert all((out.parent / unquote(link)).is_file() for link in links)


def test_every_row_of_a_plot_is_named_beside_it_from_top_to_bottom(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (group,) = groups_of(made(f"M{place}", 1, 0.4 + place / 1000) for place in range(25))
    for name, figure in figures_of(group):
        if not name.startswith("experts"):
            (legend,) = figure.legends
            named = [text.get_text() for text in legend.get_texts()]
            assert [one for one in named if one.startswith("M")] == [f"M{place}" for place in reversed(range(25))]
            assert sorted(named) == sorted(row.label for row in group.rows.values())


points = st.tuples(st.integers(1, 5), st.integers(0, 5)).map(lambda pair: (float(pair[0]), float(pair[1])))


@given(st.lists(points, min_size=1), st.booleans())
def test_the_front_is_the_best_within_each_cost(drawn: list[tuple[float, float]], bigger: bool) -> None:
    best = max if bigger else min
    line = front(drawn, bigger)
    assert line == sorted(set(line))
    for cost, _ in drawn:
        within = best(quality for other, quality in drawn if other <= cost)
        assert [quality for other, quality in line if other <= cost][-1] == within


def test_ticks_have_their_unit_and_captions_are_words(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (group,) = groups_of(synthetic())
    units = {"bytes": "B", "bytes_per_item": "B", "latency_ms": "ms"}
    for name, figure in figures_of(group):
        caption = caption_of(group, name)
        assert len(caption.split()) > 10 and caption.endswith(".") and name not in caption
        cost = name.partition("-against-")[2]
        if cost:
            figure.canvas.draw()
            labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
            assert labels and all(re.fullmatch(rf"[\d.]+ [kMG]?{units[cost]}", label) for label in labels)
            assert not any(re.search("[kMG]ms", label) for label in labels)
    assert [with_unit(value, "B") for value in (22, 2e4, 5e6, 1e9)] == ["22 B", "20 kB", "5 MB", "1 GB"]
    assert [with_unit(value, "ms") for value in (0.022, 5000)] == ["0.022 ms", "5000 ms"]


def test_colours_differ_in_grey_print(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from recbole_derrd.report.plots import _colours

    grey = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue, _ in _colours(8)]
    assert grey == sorted(grey) and min(b - a for a, b in zip(grey, grey[1:])) > 0.03 and grey[-1] < 0.75


def test_a_mean_curve_is_of_the_same_epochs() -> None:
    """A score that is not a number is left out of its own curve, and shifts no other."""
    pytest.importorskip("matplotlib")
    records = [made("DE", seed, 0.4) for seed in (1, 2)]
    for record, middle in zip(records, (math.nan, 0.2)):
        record["distilled"]["valid_scores"] = [[0, 0.1], [1, middle], [2, 0.3]]
    figure = learning_curves(groups_of(records)[0])
    assert figure is not None
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "DE"]
    assert list(line.get_xdata()) == [0, 2] and list(line.get_ydata()) == [0.1, 0.3]
