"""The shape that code here has, as rules over the syntax tree: each finds offences, and says where.

python -m shape.rules [room ...], with ``tests`` on the path, prints the offences of these rooms, or of all.
"""

import ast
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from benchmarks.shape import (
    REPOSITORY,
    Function,
    Source,
    body_length,
    complexity,
    length,
    node_method,
    parameters,
    public_names,
    room_of,
    sources_of_tree,
)


@dataclass(frozen=True)
class Limits:
    """The most that a function may have; the lines of its body where ``body`` is given, else of all of it."""

    lines: int = 60
    parameters: int = 8
    complexity: int = 12
    body: int | None = None


USUAL = Limits()
NODE = Limits(body=15)  # of what a node does with its inputs; its ``**settings`` are not counted
# All that may be larger, by file and name.
EXCEPTIONS = {
    ("ltx2_core/pipeline/generate.py", "generate"): Limits(lines=70, parameters=40, complexity=8),  # the facade
}
# Methods by which the host calls a node: the host documents them, and the docstring of the class says what is done.
HOST_METHODS = {
    "get_node_list",
    "define_schema",
    "execute",
    "given",
    "validate_inputs",
    "fingerprint_inputs",
    "check_lazy_status",
    # of a ModelPatcher
    "model_size",
    "loaded_size",
    "current_loaded_device",
    "partially_load",
    "partially_unload",
    "detach",
}
# Folders of other projects, whose files are named as sources.
FOREIGN = (
    "ltx_core",
    "ltx_pipelines",
    "ltx_trainer",
    "comfy",
    "comfy_extras",
    "comfy_api",
    "diffusers",
    "transformers",
    "peft",
    "k_diffusion",
    "torch",
)

_URL = re.compile(r"\w+://\S+")
_CITED = re.compile(r"[\w./-]*\w\.(?:md|py)\b")
_CHAPTER = re.compile(r'([\w./-]*README\.md)`*[,:]?\s+"([^"]+)"')
_SPEC = re.compile(r"\bspec:", re.IGNORECASE)


@dataclass(frozen=True)
class Offence:
    """Something that a rule forbids."""

    path: str
    line: int
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.what}"


# The rules


def too_large(source: Source) -> Iterator[Offence]:
    """Find functions with too many lines, parameters or decisions."""
    executes = {node_method(node) for node in source.nodes if isinstance(node, ast.ClassDef)}
    for function in source.functions:
        is_node = function in executes
        limits = EXCEPTIONS.get((source.path, function.name), NODE if is_node else USUAL)
        lines, most = (length(function), limits.lines) if limits.body is None else (body_length(function), limits.body)
        taken = len(parameters(function)) - (is_node and function.args.kwarg is not None)
        for rule, found, allowed in (
            ("lines", lines, most),
            ("parameters", taken, limits.parameters),
            ("complexity", complexity(function), limits.complexity),
        ):
            if found > allowed:
                yield Offence(source.path, function.lineno, rule, f"{function.name} has {found}, at most {allowed}")


def starred_literals(source: Source) -> Iterator[Offence]:
    """Find calls such as ``f(*(a, b))`` and ``f(**{"a": 1})``: neither reader nor tool sees what goes where."""
    for node in source.nodes:
        if not isinstance(node, ast.Call):
            continue
        values = [each.value for each in node.args if isinstance(each, ast.Starred)]
        values += [each.value for each in node.keywords if each.arg is None]
        if any(isinstance(value, (ast.Tuple, ast.List, ast.Set, ast.Dict)) for value in values):
            yield Offence(source.path, node.lineno, "starred literal", ast.unparse(node)[:60])


def bare_any(source: Source) -> Iterator[Offence]:
    """Find public functions and methods that take or return ``Any``; starred parameters may."""
    for function in _public_functions(source.tree):
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for name, annotation in [*((each.arg, each.annotation) for each in every), ("the result", function.returns)]:
            if annotation is not None and _is_any(annotation):
                yield Offence(source.path, function.lineno, "bare Any", f"{name} of {function.name}")


def _is_any(annotation: ast.expr) -> bool:
    if isinstance(annotation, ast.BinOp):  # Any | None
        return _is_any(annotation.left) or _is_any(annotation.right)
    return ast.unparse(annotation).strip("'\"") in ("Any", "typing.Any")


def _public_functions(tree: ast.Module | ast.ClassDef) -> Iterator[Function]:
    """Yield what is called from outside: public functions, and public methods of public classes with ``__init__``."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public_functions(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _is_public(node.name):
            yield node


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name.endswith("__")


def missing_docstrings(source: Source) -> Iterator[Offence]:
    """Find files and public names without a docstring."""
    if ast.get_docstring(source.tree) is None and source.tree.body:
        yield Offence(source.path, 1, "docstring", "the file has none")
    for node in public_names(source.tree):
        if ast.get_docstring(node) is None and not _documented_elsewhere(node):
            yield Offence(source.path, node.lineno, "docstring", f"{node.name} has none")


def _documented_elsewhere(node: Function | ast.ClassDef) -> bool:
    decorators = {ast.unparse(each).split(".")[-1] for each in node.decorator_list}
    return node.name in HOST_METHODS or bool(decorators & {"setter", "overload"})


def citations(source: Source) -> Iterator[Offence]:
    """Find comments and docstrings that name a file, or a chapter of a README, which is not in the tree."""
    for line, text in _prose(source):
        if _SPEC.search(text):
            yield Offence(source.path, line, "spec", " ".join(text.split())[:60])
        for cited in _CITED.findall(_URL.sub("", text)):
            if cited.split("/")[0] not in FOREIGN and not _found(source, cited):
                yield Offence(source.path, line, "cited file", f"{cited} is not in the tree")
        for page, chapter in _CHAPTER.findall(" ".join(text.split())):
            readme = _readme(source, page)
            if readme is not None and chapter not in _headings(readme):
                yield Offence(source.path, line, "cited chapter", f'{readme} has no "{chapter}"')


def _prose(source: Source) -> Iterator[tuple[int, str]]:
    """Yield comments, those on consecutive lines as one, and docstrings, each with its line; those that may cite."""
    yield from _comments(source)
    for node in source.nodes:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0].lineno, text


def _comments(source: Source) -> Iterator[tuple[int, str]]:
    behind = [line.partition("#")[2] for line in source.text.splitlines()]
    if not any(_CITED.search(text) or _SPEC.search(text) for text in behind if text):
        return  # to take a file apart into tokens takes longer than all other rules
    block: list[str] = []
    start = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start[0] != last + 1:
            yield start, "\n".join(block)
            block = []
        start, last = (start if block else token.start[0]), token.start[0]
        block.append(token.string.lstrip("# "))
    if block:
        yield start, "\n".join(block)


@cache
def _tree() -> frozenset[str]:
    """All files of the repository."""
    found = set()
    for folder, folders, names in os.walk(REPOSITORY):
        folders[:] = [each for each in folders if each not in (".git", ".venv", "node_modules", "__pycache__")]
        found |= {(Path(folder) / name).relative_to(REPOSITORY).as_posix() for name in names}
    return frozenset(found)


def _found(source: Source, cited: str) -> bool:
    """Whether a file is there: a README beside the source or above it, another one wherever its path ends so."""
    if PurePosixPath(cited).name == "README.md":
        return _readme(source, cited) is not None
    wanted = cited.removeprefix("./")
    return any(path == wanted or path.endswith(f"/{wanted}") for path in _tree())


def _readme(source: Source, cited: str) -> str | None:
    """Find the page that is cited: from the folder of the source, else from the nearest folder above it."""
    for folder in PurePosixPath(source.path).parents:
        if (path := os.path.normpath(folder / cited).replace(os.sep, "/")) in _tree():
            return path
    return None


@cache
def _headings(readme: str) -> frozenset[str]:
    lines = (REPOSITORY / readme).read_text().splitlines()
    return frozenset(line.lstrip("#").strip() for line in lines if line.startswith("#"))


RULES = (too_large, starred_literals, bare_any, missing_docstrings, citations)


def offences(sources: Sequence[Source]) -> list[Offence]:
    """Return all offences of some files."""
    return [offence for source in sources for rule in RULES for offence in rule(source)]


def room(source: Source) -> str:
    """Return the room of a file; that of ``ltx2_core/__init__.py`` is its own name."""
    return room_of(source.module) or "__init__"


if __name__ == "__main__":
    wanted = [each for each in sources_of_tree() if not sys.argv[1:] or room(each) in sys.argv[1:]]
    print(*offences(wanted), sep="\n")
