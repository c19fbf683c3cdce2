"""What the frontier of records is shown as: its tables as text, and a picture in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from recbole_derrd.errors import OptionError
from recbole_derrd.report.frontier import frontier_figure, frontier_table, frontiers_of
from recbole_derrd.report.plots import PLOTS_NEED, as_svg, can_plot
from recbole_derrd.report.reading import read_records, records_of
from recbole_derrd.report.table import BEST
from recbole_derrd.runtime.files import replacing_file, try_writing

#: Kinds of pictures, by the file's end.
KINDS = ("svg", "png", "pdf")
#: Text has no bold type, of which the table's last note speaks.
_STARS = "The best of each number of bytes has a *."


def refuse_picture(path: Path) -> None:
    """Refuse a picture that cannot be written, before anything is trained.

    Raises:
        OptionError: its name has another end, matplotlib is missing, or its folder cannot be written.
    """
    if path.suffix.lstrip(".").lower() not in KINDS:
        raise OptionError(f"--plot must name a file that ends in {', '.join('.' + kind for kind in KINDS)}: '{path}'.")
    if not can_plot():
        raise OptionError(PLOTS_NEED)
    if path.is_dir():
        raise OptionError(f"--plot must name a file, and '{path}' is a folder.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try_writing(path.parent)
    except OSError as error:
        raise OptionError(f"Cannot write --plot={path}: {error.strerror or error}. Choose another place.") from error


def frontier_page(places: Sequence[Path], picture: Path) -> str:
    """Return the tables of all groups of records, and say where their pictures are.

    Args:
        places: folders and files of records.
        picture: the file of the picture; further groups' are numbered.

    Raises:
        DistillError: there are no records, or the picture cannot be written.
    """
    records, unread = records_of(*places)
    first, _ = read_records(places[0])
    own = {record.source for record in first}
    # What lies beside may be of other data: the picture is that of the first place.
    found_in = sorted(frontiers_of(records), key=lambda one: own.isdisjoint(each.source for each in one.group.records))
    lines = [f"The record {source} is left out: it {fault}." for source, fault in unread.items()]
    for place, found in enumerate(found_in):
        table = frontier_table(found)
        cells = [[f"{cell.text} *" if cell.mark == BEST else cell.text for cell in row] for row in table.rows]
        align = ["right", "left", *["right"] * (len(table.head) - 2)]
        lines += [
            "",
            table.title,
            tabulate(cells, table.head, disable_numparse=True, colalign=align),
            *table.notes[:-1],
            _STARS,
        ]
        if not can_plot():
            continue
        path = picture if place == 0 else picture.with_name(f"{picture.stem}-{place + 1}{picture.suffix}")
        kind = path.suffix.lstrip(".").lower()
        with replacing_file(path) as partial:
            if kind == "svg":
                partial.write_text(as_svg(frontier_figure(found)) + "\n", encoding="utf-8")
            else:
                frontier_figure(found).savefig(partial, format=kind, dpi=150)
        lines += ["", f"Picture: {path}"]
    return "\n".join([*lines, *([] if can_plot() else ["", PLOTS_NEED]), ""])
