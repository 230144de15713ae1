"""The shape of the code in numbers: length, complexity, annotations, nodes, and which room imports which.

python -m benchmarks.shape [--rev REVISION] [--json FILE]

Nothing is imported of what is measured: the syntax trees are read, of the working tree or of a revision of git.
"""

import argparse
import ast
import io
import json
import statistics
import subprocess
import tarfile
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .markdown import markdown

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("ltx2_core", "nodes", "benchmarks")
SCRIPTS = "js"
Function = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """One Python file of the project; ``path`` is relative to the repository."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree, which every rule and every count looks at."""
        return list(ast.walk(self.tree))

    @cached_property
    def functions(self) -> list[Function]:
        """All functions and methods, nested ones too."""
        return [node for node in self.nodes if isinstance(node, _FUNCTIONS)]

    @property
    def lines(self) -> int:
        """The number of lines."""
        return len(self.text.splitlines())

    @property
    def module(self) -> tuple[str, ...]:
        """The dotted name, in parts: ("ltx2_core", "sampling", "tiles"); that of a package without ``__init__``."""
        parts = Path(self.path).with_suffix("").parts
        return parts[:-1] if parts[-1] == "__init__" else parts

    @property
    def package(self) -> tuple[str, ...]:
        """What relative imports of this file start from."""
        return tuple(Path(self.path).parent.parts)


# Reading


def sources_of_tree(root: Path = REPOSITORY) -> list[Source]:
    """Return the Python files of the product and its benchmarks as they lie on disk."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return [Source(str(path.relative_to(root)), path.read_text()) for path in paths]


def sources_of_revision(revision: str) -> list[Source]:
    """Return the same files as git holds them in a revision."""
    command = ["git", "archive", "--format=tar", revision, *PACKAGES]
    archive = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True).stdout
    sources = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            if member.name.endswith(".py") and (file := files.extractfile(member)):
                sources.append(Source(member.name, file.read().decode()))
    return sorted(sources, key=lambda source: source.path)


# What is counted in one function


def length(function: Function) -> int:
    """Return the lines of a function from its ``def`` to its end."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def body_length(function: Function) -> int:
    """Return the lines of a function from its first statement to its end; a docstring is not counted."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or function.lineno) - body[0].lineno + 1 if body else 0


def parameters(function: Function) -> list[ast.arg]:
    """Return the parameters of a function without ``self`` and ``cls``, with those that are starred."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    every += [starred for starred in (given.vararg, given.kwarg) if starred is not None]
    return every[1:] if every and every[0].arg in ("self", "cls") else every


def complexity(function: Function) -> int:
    """Return McCabe's cyclomatic complexity: one more than the decisions, as the tool radon counts them.

    Functions that are defined inside have a number of their own.
    """
    return 1 + sum(_decisions(node) for statement in function.body for node in _own(statement))


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and what is in it, but not what belongs to functions, classes and asserted conditions in it."""
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        return
    yield node
    if isinstance(node, ast.Assert):
        return
    for child in ast.iter_child_nodes(node):
        yield from _own(child)


def _decisions(node: ast.AST) -> int:
    match node:
        case ast.If() | ast.IfExp() | ast.Assert():
            return 1
        case ast.For() | ast.AsyncFor() | ast.While():
            return 1 + bool(node.orelse)
        case ast.Try():
            return len(node.handlers) + bool(node.orelse)
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.Match():
            wild = any(isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None for case in node.cases)
            return max(0, len(node.cases) - wild)
    return 0


# Tables


def spread(values: Iterable[float], *shares: float) -> list[float]:
    """Return the values up to which these shares of all lie; 0 where there are none."""
    ordered = sorted(values)
    if not ordered:
        return [0.0 for _ in shares]
    places = [min(len(ordered) - 1, int(share * len(ordered))) for share in shares]
    return [statistics.median(ordered) if share == 0.5 else ordered[place] for share, place in zip(shares, places)]


def shape_of(sources: Sequence[Source]) -> dict[str, Any]:
    """Return the row of numbers of some files."""
    functions = [function for source in sources for function in source.functions]
    arguments = [each for function in functions for each in parameters(function)]
    decisions = [complexity(function) for function in functions]
    return {
        "files": len(sources),
        "lines": sum(source.lines for source in sources),
        "file med / p95 / max": spread([source.lines for source in sources], 0.5, 0.95, 1),
        "functions": len(functions),
        "fn med / p95 / max": spread(map(length, functions), 0.5, 0.95, 1),
        "params p95 / max": spread(map(len, map(parameters, functions)), 0.95, 1),
        "complexity mean": round(statistics.mean(decisions or [0]), 2),
        "complexity p95 / max": spread(decisions, 0.95, 1),
        "complexity > 10": sum(each > 10 for each in decisions),
        "args annotated %": _percent([each.annotation is not None for each in arguments]),
        "docstrings %": _percent(_documented(sources)),
        "comments per 100 lines that are not empty": comments_per_100_lines(sources),
    }


def comments_per_100_lines(sources: Sequence[Source]) -> float:
    """Return how many comments there are on a hundred lines that are not empty."""
    written = sum(bool(line.strip()) for source in sources for line in source.text.splitlines())
    return round(100 * sum(map(_comments, sources)) / max(written, 1), 1)


def _documented(sources: Sequence[Source]) -> list[bool]:
    """Return of every public name whether it has a docstring."""
    return [ast.get_docstring(node) is not None for source in sources for node in public_names(source.tree)]


def public_names(tree: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    """Yield the public functions and classes of a file, and the public methods of these classes."""
    for node in tree.body:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_names(node)


def _comments(source: Source) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def _percent(facts: Sequence[bool]) -> float:
    return round(100 * sum(facts) / max(len(facts), 1), 1)


def nodes_of(sources: Sequence[Source]) -> dict[str, Any]:
    """Return the row of numbers of the classes that are nodes."""
    bodies, schemas, most = [], [], 0
    for node in (each for source in sources for each in source.nodes if isinstance(each, ast.ClassDef)):
        if not _is_node(node):
            continue
        schemas.append(_schema_length(node))
        method = node_method(node)
        bodies.append(body_length(method) if method else 0)
        most = max(most, len(parameters(method)) if method else 0)
    return {
        "nodes": len(bodies),
        "body med / p95 / max": spread(bodies, 0.5, 0.95, 1),
        "body <= 40 lines %": _percent([each <= 40 for each in bodies]),
        "schema med / max": spread(schemas, 0.5, 1),
        "most params": most,
    }


def node_method(node: ast.ClassDef) -> Function | None:
    """Return what a node does with its inputs; None for one that only names the condition it adds, and for no node.

    A node runs by ``execute``, or by ``given`` if it adds conditions.
    """
    methods = _methods(node)
    return methods.get("execute", methods.get("given")) if _is_node(node) else None


def _is_node(node: ast.ClassDef) -> bool:
    """Whether a class says what goes in and out: by an ``id`` and more attributes, before by a schema of its own."""
    return {"define_schema", "execute"} <= _methods(node).keys() or "id" in map(ast.unparse, _attributes(node))


def _methods(node: ast.ClassDef) -> dict[str, Function]:
    return {each.name: each for each in node.body if isinstance(each, _FUNCTIONS)}


def _attributes(node: ast.ClassDef) -> list[ast.expr]:
    """Return the names to which a class assigns values."""
    return [target for each in node.body if isinstance(each, ast.Assign) for target in each.targets]


def _schema_length(node: ast.ClassDef) -> int:
    """Return the lines in which a node says what goes in and out."""
    for each in node.body:
        if isinstance(each, _FUNCTIONS) and each.name == "define_schema":
            return length(each)
    return sum((each.end_lineno or each.lineno) - each.lineno + 1 for each in node.body if isinstance(each, ast.Assign))


# The house


@dataclass(frozen=True)
class House:
    """Rooms and the arrows between them: one for each pair of rooms of which the first imports the second."""

    rooms: tuple[str, ...]
    arrows: dict[tuple[str, str], int]  # how many imports each stands for
    circles: tuple[tuple[str, ...], ...]  # of files that import each other

    @cached_property
    def back_up(self) -> list[tuple[str, str]]:
        """The arrows that have to be left out so that all others go down: of each circle the thinnest."""
        left = dict(self.arrows)
        out = []
        while circle := next((each for each in _circles(left) if len(each) > 1), None):
            within = {arrow: count for arrow, count in left.items() if set(arrow) <= set(circle)}
            out.append(min(within, key=lambda arrow: (within[arrow], arrow)))
            del left[out[-1]]
        return out

    @cached_property
    def floors(self) -> dict[str, int]:
        """The floor of each room: 1 where nothing is imported, else one above the highest that is."""
        below: dict[str, set[str]] = {room: set() for room in self.rooms}
        for above, under in self.arrows:
            if (above, under) not in self.back_up:
                below[above].add(under)
        floors: dict[str, int] = {}

        def floor(room: str) -> int:
            if room not in floors:
                floors[room] = 1 + max(map(floor, below[room]), default=0)
            return floors[room]

        return {room: floor(room) for room in self.rooms}


def house_of(sources: Sequence[Source], scripts: bool = True) -> House:
    """Return the house of the project.

    A room is a file or a folder directly in ``ltx2_core``, or another folder at the top; what only hands names on
    (``__init__`` of ``ltx2_core``) is none.
    """
    by_module = {source.module: source for source in sources}
    arrows: Counter[tuple[str, str]] = Counter()
    edges: dict[tuple[str, str], int] = {}
    for source in sources:
        for target in _imports(source, by_module):
            pair = room_of(source.module), room_of(target)
            edges[".".join(source.module), ".".join(target)] = 1
            if None not in pair and pair[0] != pair[1]:
                arrows[pair] += 1  # type: ignore[index]
    rooms = {room for source in sources if (room := room_of(source.module))} | ({SCRIPTS} if scripts else set())
    circles = tuple(each for each in _circles(edges) if len(each) > 1)
    return House(tuple(sorted(rooms)), dict(sorted(arrows.items())), circles)


def room_of(module: tuple[str, ...]) -> str | None:
    """Return the room of a module; None for the faces of packages."""
    if module[0] != "ltx2_core":
        return module[0]
    return None if len(module) == 1 else module[1]


def _imports(source: Source, by_module: dict[tuple[str, ...], Source]) -> Iterator[tuple[str, ...]]:
    """Yield the modules of the project that a file imports, wherever in it."""
    for node in source.nodes:
        found: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            found = [tuple(name.name.split(".")) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base(source, node)
            inner = [(*base, name.name) for name in node.names]
            found = [each if each in by_module else base for each in inner]
        yield from (each for each in dict.fromkeys(found) if each in by_module and each != source.module)


def _base(source: Source, node: ast.ImportFrom) -> tuple[str, ...]:
    """Return the module after ``from``."""
    above = source.package[: len(source.package) - node.level + 1] if node.level else ()
    return above + (tuple(node.module.split(".")) if node.module else ())


def _circles(edges: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Return the strongly connected parts of a graph, those of one node too, each in order of names."""
    onward: dict[str, list[str]] = {}
    for start, end in edges:
        onward.setdefault(start, []).append(end)
        onward.setdefault(end, [])

    def reach(start: str, ways: dict[str, list[str]]) -> set[str]:
        seen, waiting = {start}, [start]
        while waiting:
            for each in ways[waiting.pop()]:
                if each not in seen:
                    seen.add(each)
                    waiting.append(each)
        return seen

    backward: dict[str, list[str]] = {node: [] for node in onward}
    for start, ends in onward.items():
        for end in ends:
            backward[end].append(start)
    parts = {tuple(sorted(reach(node, onward) & reach(node, backward))) for node in onward}
    return sorted(parts)


# Printing

GROUPS: dict[str, Callable[[Source], bool]] = {
    "core without mini": lambda source: source.path.startswith("ltx2_core/") and "/mini/" not in source.path,
    "nodes": lambda source: source.path.startswith("nodes/"),
    "mini": lambda source: source.path.startswith("ltx2_core/mini/"),
}


def measure(sources: Sequence[Source]) -> dict[str, Any]:
    """Return all numbers: a row for each group of files, one for the nodes, one for the house."""
    house = house_of(sources)
    return {
        "code": {name: shape_of([each for each in sources if belongs(each)]) for name, belongs in GROUPS.items()},
        "nodes": nodes_of([each for each in sources if GROUPS["nodes"](each)]),
        "house": {
            "rooms": len(house.rooms),
            "floors": max(house.floors.values(), default=0),
            "arrows": len(house.arrows),
            "arrows back up": [" -> ".join(arrow) for arrow in house.back_up],
            "circles": [" <-> ".join(circle) for circle in house.circles],
        },
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return rows of equal columns in Markdown, their names in front."""

    def cell(value: Any) -> str:
        if isinstance(value, list):
            return " / ".join(map(cell, value)) or "0"
        return f"{value:,g}" if isinstance(value, (int, float)) else str(value)

    columns = ["", *next(iter(rows.values()))]
    return markdown(columns, ([name, *map(cell, row.values())] for name, row in rows.items()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, of the working tree or of a revision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rev", help="a revision of git; by default the working tree")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers into this file, too")
    options = parser.parse_args(arguments)
    found = measure(sources_of_revision(options.rev) if options.rev else sources_of_tree())
    print(table(found["code"]), table({"nodes": found["nodes"]}), table({"house": found["house"]}), sep="\n\n")
    if options.json:
        options.json.write_text(json.dumps({"revision": options.rev or "working tree", **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
