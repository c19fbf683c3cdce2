"""The report as one HTML file that needs nothing else: styles and plots are in it."""

from __future__ import annotations

from recbole_derrd.report.comparison_tables import provenance
from recbole_derrd.report.escaping import as_html
from recbole_derrd.report.plots import as_svg, can_plot, figures_of
from recbole_derrd.report.rows import Group
from recbole_derrd.report.table import Table, table_as_html

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #444; } td { border-bottom: 1px solid #ddd; } td.word { text-align: left; }
.note { color: #555; font-size: .88rem; max-width: 60rem; } figure { display: inline-block; margin: 1rem 1rem 0 0; }
pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
"""


def html_report(title: str, groups: list[Group], tables: list[list[Table]], warnings: list[str]) -> str:
    """Return the file's text: for each group its tables and plots, then what made the numbers."""
    parts = [f"<h1>{as_html(title)}</h1>"]
    parts += [f"<p><b>{as_html(warning)}</b></p>" for warning in warnings]
    if not can_plot():
        parts.append("<p class=note>Without plots: pip install 'recbole_derrd[plots]' and make this report again.</p>")
    for group, own in zip(groups, tables):
        parts += map(table_as_html, own)
        if can_plot():
            parts += [
                f"<figure>{as_svg(figure)}<figcaption class=note>{as_html(name)}</figcaption></figure>"
                for name, figure in figures_of(group)
            ]
    parts.append("<h2>What made these numbers</h2>")
    for heading, lines in provenance(record for group in groups for record in group.records):
        parts.append(f"<h3>{heading}</h3>\n<pre>{chr(10).join(map(as_html, lines))}</pre>")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{as_html(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )
