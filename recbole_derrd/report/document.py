"""A report from records, in one of three formats."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Callable
from urllib.parse import quote

from recbole_derrd.errors import DistillError, OptionError, did_you_mean
from recbole_derrd.report.comparison_tables import provenance, results_table, significance_table
from recbole_derrd.report.equal_epochs import equal_epochs_table
from recbole_derrd.report.escaping import as_md, as_tex, fenced, printable
from recbole_derrd.report.grouping import groups_of
from recbole_derrd.report.html import html_report
from recbole_derrd.report.plots import need_plots, save_figures
from recbole_derrd.report.reading import records_of
from recbole_derrd.report.rows import Group
from recbole_derrd.report.table import Table, table_as_md, table_as_tex
from recbole_derrd.report.titles import numbered

FORMATS = ("md", "tex", "html")


def report_of(
    places: Path | Sequence[Path],
    kind: str,
    *,
    baseline: str | None = None,
    plots: Path | None = None,
    split: str = "test",
    metric: str | None = None,
    beside: Path | None = None,
) -> str:
    """Return the report of a folder or file of records, or of several together.

    Args:
        places: folders of records, whose sub-folders are read as well, and files: .json, or .jsonl with one a line.
        kind: "md", "tex" or "html".
        baseline: name of the row to test against; the best baseline if None.
        plots: folder that plots are written to, for md (SVG) and tex (PDF); in HTML they are in the file itself.
        split: "test", or "valid" while settings are still being chosen.
        metric: what gaps and tests are of; the records' valid_metric if None.
        beside: folder that the report will lie in, from which it names its plots; as ``plots`` says if None.

    Raises:
        DistillError: there are no records, or the baseline or the metric is unknown.
    """
    among = [places] if isinstance(places, Path) else list(places)
    records, unread = records_of(*among)
    groups = groups_of(records, split, metric)
    metrics = {name for group in groups for name in group.metrics}
    if metric is not None and metric not in metrics:
        raise OptionError(f"These records have no metric '{metric}'.{did_you_mean(metric, metrics)}")
    labels = {row.label for group in groups for row in group.rows.values() if row.role != "teacher"}
    if baseline is not None and baseline not in labels:
        raise OptionError(f"There is no row '{baseline}' to compare with.{did_you_mean(baseline, labels)}")
    tables = _told_apart([_tables(group, baseline) for group in groups])
    warnings = [f"The record {source} is left out: it {fault}." for source, fault in unread.items()]
    if kind == "html":
        return html_report(f"Report of {', '.join(map(str, among))}", groups, tables, warnings)
    drawn = _plots(groups, plots, "svg" if kind == "md" else "pdf") if plots is not None else [[] for _ in groups]
    named = [[(_link(path, beside), caption) for path, caption in files] for files in drawn]
    return (_markdown if kind == "md" else _latex)(groups, tables, named, warnings)


def _link(path: Path, beside: Path | None) -> str:
    return path.as_posix() if beside is None else Path(os.path.relpath(path, beside)).as_posix()


def _tables(group: Group, baseline: str | None) -> list[Table]:
    # A name may be of one group only; where it is unknown, that group is tested against its own best.
    labels = {row.label for row in group.rows.values()}
    tested = significance_table(group, baseline if baseline in labels else None)
    return [table for table in (results_table(group), tested, equal_epochs_table(group)) if table]


def _told_apart(tables: list[list[Table]]) -> list[list[Table]]:
    """Give no two tables of a report one title."""
    titles = iter(numbered([printable(table.title) for own in tables for table in own], " ({})"))
    return [[dataclasses.replace(table, title=next(titles)) for table in own] for own in tables]


def _plots(groups: list[Group], folder: Path, kind: str) -> list[list[tuple[Path, str]]]:
    need_plots()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [
            save_figures(group, folder, kind, _figures_prefix(group, place, len(groups)))
            for place, group in enumerate(groups)
        ]
    except OSError as error:
        raise DistillError(f"Cannot write plots to '{folder}': {error.strerror or error}.") from error


def _figures_prefix(group: Group, place: int, count: int) -> str:
    # The same plots of the two splits may lie in one folder.
    return (f"{place + 1}-" if count > 1 else "") + ("" if group.split == "test" else f"{group.split}-")


def _markdown(
    groups: list[Group], tables: list[list[Table]], drawn: list[list[tuple[str, str]]], warnings: list[str]
) -> str:
    parts = list(map(as_md, warnings))
    for own, files in zip(tables, drawn):
        parts += map(table_as_md, own)
        for path, caption in files:
            words = as_md(caption)
            parts += [f"![{words}]({quote(path, errors='surrogateescape')})", words]
    for heading, lines in provenance(record for group in groups for record in group.records):
        parts.append(f"{heading}:\n\n{fenced(lines)}")
    return "\n\n".join(parts) + "\n"


def _latex(
    groups: list[Group], tables: list[list[Table]], drawn: list[list[tuple[str, str]]], warnings: list[str]
) -> str:
    parts = [r"% Needs \usepackage{booktabs,graphicx}."]
    parts += [f"% {printable(warning)}" for warning in warnings]
    for own, files in zip(tables, drawn):
        parts += map(table_as_tex, own)
        parts += [
            "\\begin{figure}\n\\centering\n"
            f"\\includegraphics[width=\\columnwidth]{{{path}}}\n\\caption{{{as_tex(caption)}}}"
            "\n\\end{figure}"
            for path, caption in files
        ]
    for heading, lines in provenance(record for group in groups for record in group.records):
        parts.append("\n".join([f"% {heading}:", *(f"%   {printable(line)}" for line in lines)]))
    return "\n\n".join(parts) + "\n"


def html_beside(place: Path) -> Path:
    """Return where an HTML report of a folder or file of records lies by default."""
    return place / "report.html" if place.is_dir() else place.with_suffix(".html")


def write_report(text: str, path: Path, log: Callable[[str], None] = print) -> None:
    """Write a report to a file."""
    # It waits for torch, which what is printed need not.
    from recbole_derrd.runtime.files import replacing_file

    with replacing_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    log(f"Report: {path}")
