"""The report as one HTML file that needs nothing else: styles and plots are in it."""

from __future__ import annotations

from recbole_derrd.report.comparison_tables import provenance
from recbole_derrd.report.escaping import as_html
from recbole_derrd.report.plots import as_svg, can_plot, caption_of, figures_of
from recbole_derrd.report.rows import Group
from recbole_derrd.report.table import Table, table_as_html

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .87rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .55rem; text-align: right; white-space: nowrap; background: #fff; }
th { border-bottom: 2px solid #444; vertical-align: bottom; white-space: normal; } td { border-bottom: 1px solid #ddd; }
td.word, th.word { text-align: left; }
td:first-child, th:first-child { position: sticky; left: 0; z-index: 1; white-space: normal; min-width: 9rem; }
.detail { display: none; } #all:checked ~ section .detail { display: table-cell; }
label[for=all] { color: #555; } @media print { #all, label[for=all] { display: none; } }
.note { color: #555; font-size: .88rem; max-width: 60rem; }
figure { display: inline-block; margin: 1rem 1rem 0 0; max-width: 100%; } figcaption { max-width: 40rem; }
figure svg { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def html_report(title: str, groups: list[Group], tables: list[list[Table]], warnings: list[str]) -> str:
    """Return the file's text: for each group its tables and plots, then what made the numbers."""
    parts = [f"<h1>{as_html(title)}</h1>"]
    parts += [f"<p><b>{as_html(warning)}</b></p>" for warning in warnings]
    if not can_plot():
        parts.append("<p class=note>Without plots: pip install 'recbole_derrd[plots]' and make this report again.</p>")
    if any(table.details for own in tables for table in own):
        # No script: the style sheet looks at the box.
        parts.append('<input type="checkbox" id="all" /> <label for="all">Show all columns</label>')
    for group, own in zip(groups, tables):
        parts += map(table_as_html, own)
        if can_plot():
            for name, figure in figures_of(group):
                words = as_html(caption_of(group, name))
                parts.append(f"<figure>{as_svg(figure)}<figcaption class=note>{words}</figcaption></figure>")
    parts.append("<h2>What made these numbers</h2>")
    for heading, lines in provenance(record for group in groups for record in group.records):
        parts.append(f"<h3>{heading}</h3>\n<pre>{chr(10).join(map(as_html, lines))}</pre>")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{as_html(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )
