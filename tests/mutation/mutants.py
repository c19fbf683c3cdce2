"""Which slips are tried: one change of one operator, number or function name, as a hand would make it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

_COMPARED = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
_SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_CALCULATED = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
}
_NAMES = {
    "min": "max", "max": "min", "amin": "amax", "amax": "amin", "any": "all", "all": "any", "sum": "mean",
    "exp": "log", "log_softmax": "softmax", "logcumsumexp": "cumsum", "cumsum": "cumprod", "sigmoid": "tanh",
    "minimum": "maximum", "maximum": "minimum", "relu": "abs", "tanh": "sigmoid",
}  # fmt: skip
#: Calls whose arguments are words, limits of options or names: nothing that a formula has.
_NO_FORMULA = {"option", "share_of_users", "share_of_entities", "OptionError", "DataError", "TrainingError",
               "RuntimeError", "field", "getLogger", "warning", "info", "Method", "TypeVar"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One slip.

    Attributes:
        file: the file, relative to the repository.
        line: its line, from 1.
        start: where the replaced text begins in the file.
        stop: where it ends.
        text: what stands there instead.
    """

    file: str
    line: int
    start: int
    stop: int
    text: str

    def applied(self, source: str) -> str:
        """Return the file's text with the slip."""
        return source[: self.start] + self.text + source[self.stop :]

    def shown(self, source: str) -> str:
        """Return the slip as a sentence: where, and the line before and after."""
        before = source.splitlines()[self.line - 1].strip()
        after = self.applied(source).splitlines()[self.line - 1].strip()
        return f"{self.file}:{self.line}\n    - {before}\n    + {after}"


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str, source: str) -> None:
        self.file, self.source, self.found = file, source, list[Mutant]()
        lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in lines:
            self.starts.append(self.starts[-1] + len(line.encode()))
        self.bytes = source.encode()

    def place(self, line: int, column: int) -> int:
        """Return the position of a line and a column in bytes among the file's characters."""
        return len(self.bytes[: self.starts[line - 1] + column].decode())

    def add(self, node: ast.expr, text: str) -> None:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self.place(node.lineno, node.col_offset)
        self.found.append(Mutant(self.file, node.lineno, start, self.place(node.end_lineno, node.end_col_offset), text))

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Replace the operator that stands between two expressions."""
        assert left.end_lineno is not None and left.end_col_offset is not None
        start, stop = self.place(left.end_lineno, left.end_col_offset), self.place(right.lineno, right.col_offset)
        at = self.source.find(old, start, stop)
        if at >= 0:
            line = self.source.count("\n", 0, at) + 1
            self.found.append(Mutant(self.file, line, at, at + len(old), new))

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            if type(operator) in _COMPARED:
                self.between(left, right, _SIGNS[type(operator)], _COMPARED[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if (type(node.op) in _CALCULATED and not isinstance(node.left, (ast.Constant, ast.JoinedStr))) or (
            type(node.op) in _CALCULATED
            and isinstance(node.left, ast.Constant)
            and not isinstance(node.left.value, str)
        ):
            self.between(node.left, node.right, *_CALCULATED[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:]):
            self.between(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub, ast.Invert)) and not isinstance(node.operand, ast.Constant):
            self.add(node, f"({ast.get_source_segment(self.source, node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add(node, str(not node.value))
        elif isinstance(node.value, int):
            self.add(node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.add(node, f"({node.value!r} * 2)" if node.value else "1.0")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in _NAMES and node.end_lineno is not None and node.end_col_offset is not None:
            stop = self.place(node.end_lineno, node.end_col_offset)
            self.found.append(Mutant(self.file, node.end_lineno, stop - len(node.attr), stop, _NAMES[node.attr]))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in _NO_FORMULA:
            return
        if isinstance(node.func, ast.Name) and name in _NAMES:
            self.add(node.func, _NAMES[name])
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Sentences are the business of other tests."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """It says what holds, and does nothing."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A sentence as well."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            # Settings of tests and defaults of students are chosen, not derived.
            if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
                self.visit(statement)

    def visit_Assign(self, node: ast.Assign) -> None:
        name = getattr(node.targets[0], "id", "")
        # Sizes of chunks change no result.
        if not (name.startswith("_") and name.isupper()):
            self.visit(node.value)


def mutants_of(file: Path, root: Path) -> Iterator[Mutant]:
    """Yield every slip of a file."""
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    finder = _Finder(str(file.relative_to(root)), source)
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple):
            continue  # sizes of chunks, several in a line
        finder.visit(statement)
    yield from finder.found
