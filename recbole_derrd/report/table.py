"""A table of a report, and how Markdown, LaTeX and HTML write it."""

from __future__ import annotations

import dataclasses

from recbole_derrd.report.escaping import as_html, as_md, as_tex

BEST, SECOND = "best", "second"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of a report: its title, head, rows and notes."""

    title: str
    head: list[str]
    rows: list[list[Cell]]
    notes: list[str]
    #: Columns of words, at the left; the others are numbers.
    words: int = 2
    #: Columns that a narrow page hides until they are asked for.
    details: frozenset[int] = frozenset()


# -- Markdown


def _md_cell(cell: Cell) -> str:
    text = as_md(cell.text)
    return {BEST: f"**{text}**", SECOND: f"<u>{text}</u>"}.get(cell.mark, text)


def table_as_md(table: Table) -> str:
    """Return a table in GitHub's Markdown."""
    marks = [":--" if column < table.words else "--:" for column in range(len(table.head))]
    lines = [[as_md(head) for head in table.head], marks, *[[_md_cell(cell) for cell in row] for row in table.rows]]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([f"## {as_md(table.title)}", body, *map(as_md, table.notes)])


# -- LaTeX


def _tex_cell(cell: Cell) -> str:
    text = as_tex(cell.text)
    return {BEST: rf"\textbf{{{text}}}", SECOND: rf"\underline{{{text}}}"}.get(cell.mark, text)


def table_as_tex(table: Table) -> str:
    r"""Return a table* environment; it needs \usepackage{booktabs,graphicx}."""
    columns = "l" * table.words + "r" * (len(table.head) - table.words)
    body = [" & ".join(map(_tex_cell, row)) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{as_tex(table.title)}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(as_tex, table.head)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\footnotesize " + " ".join(map(as_tex, table.notes)),
            r"\end{table*}",
        ]
    )


# -- HTML


def table_as_html(table: Table) -> str:
    """Return a section with a heading, a table and notes."""

    def field(column: int, cell: Cell) -> str:
        text = as_html(cell.text)
        text = {BEST: f"<b>{text}</b>", SECOND: f"<u>{text}</u>"}.get(cell.mark, text)
        return f"<td{marked(column)}>{text}</td>"

    def marked(column: int) -> str:
        return " class=word" if column < table.words else " class=detail" if column in table.details else ""

    head = "".join(f"<th{marked(column)}>{as_html(name)}</th>" for column, name in enumerate(table.head))
    body = "\n".join("<tr>" + "".join(field(*pair) for pair in enumerate(row)) + "</tr>" for row in table.rows)
    notes = "\n".join(f"<p class=note>{as_html(note)}</p>" for note in table.notes)
    return (
        f"<section>\n<h2>{as_html(table.title)}</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n{notes}\n</section>"
    )
