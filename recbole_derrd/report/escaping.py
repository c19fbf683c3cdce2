"""Text of records as each output prints it: whatever it holds, it stays text."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

#: Invisible in print, and needed by some scripts and by emoji.
_JOINERS = "\u200c\u200d"
#: A plot's legend has room for a line.
_LABEL = 120


def printable(text: str) -> str:
    r"""Return a text in one line; control characters, changes of direction and halves of characters as ``\x1b``."""
    return text if text.isascii() and text.isprintable() else "".join(map(_printable, text))


def _printable(letter: str) -> str:
    code = ord(letter)
    no_character = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in _JOINERS
    return letter.encode("unicode_escape").decode() if hidden or no_character else letter


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


# -- Markdown

# Beside the signs: what ends a heading, and what GitHub makes a link by itself.
_MD = re.compile(r"[|*_<>\\`\[\]&~$]|#(?=#*\s*$)|:(?=//)|(?<=\bwww)\.|@(?=[^\W\d]|[\w-]+\.\w)", re.IGNORECASE)


def as_md(text: str) -> str:
    """Return text that Markdown prints as it is."""
    return _MD.sub(r"\\\g<0>", printable(text))


def fenced(lines: Iterable[str]) -> str:
    """Return lines as a block of code whose fence is longer than any run of backticks in it."""
    block = "\n".join(map(printable, lines))
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", block)), 0)
    return f"{fence}\n{block}\n{fence}"


# -- LaTeX

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "]": "{]}",
    "*": "{*}",
}  # fmt: skip


def as_tex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_TEX.get(letter, letter) for letter in printable(text))


# -- HTML


def as_html(text: str) -> str:
    """Return text that HTML prints as it is."""
    return html.escape(printable(text))


# -- matplotlib


def as_label(text: str) -> str:
    """Return text that matplotlib prints as it is, shortened: no mathematics, and not hidden from a legend."""
    label = shortened(printable(text), _LABEL).replace("$", r"\$")
    return f" {label}" if label.startswith("_") or not label else label
