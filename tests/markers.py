"""Which tests compare with another implementation, told by what they import, so that nobody has to write it down.

A test is an oracle if it, or a function or fixture that it uses, imports what we compare with. What is looked at is the
text of the module and of the helpers beside it (``official.py``); nothing is imported for it.
"""

import ast
import re
from functools import cache
from pathlib import Path

ORACLES = {
    "ltx_core", "ltx_pipelines", "diffusers", "transformers", "peft", "scipy", "torchaudio", "radon", "comfy_kitchen",
    "optimum", "bitsandbytes", "gguf", "torchao", "OpenEXR",
}  # fmt: skip
HELPERS = {path.stem: path for path in Path(__file__).parent.glob("*.py")}

_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def oracles_in(path: Path) -> frozenset[str]:
    """Return the names of the functions and classes of a file that use an oracle; "*" for all of them."""
    text = path.read_text()
    helpers = [HELPERS[name] for name in re.findall(r"^from (\w+) import", text, re.MULTILINE) if name in HELPERS]
    using = {helper.stem: names for helper in helpers if helper != path and (names := oracles_in(helper))}
    if not using and not any(name in text for name in ORACLES):
        return frozenset()  # most files: their trees need not be built
    tree = ast.parse(text)
    known = {
        name.asname or name.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if name.name in using.get(node.module, ())
    }
    definitions = {node.name: node for node in tree.body if isinstance(node, (*_Function, ast.ClassDef))}
    if any(_imports_oracle(node) for node in tree.body if not isinstance(node, (*_Function, ast.ClassDef))):
        return frozenset({"*"})
    known |= {name for name, node in definitions.items() if _imports_oracle(node)}
    mentioned = {name: _names_in(node) for name, node in definitions.items()}
    while more := {name for name, names in mentioned.items() if name not in known and names & known}:
        known |= more
    return frozenset(known)


def uses_oracle(path: Path, name: str, fixtures: tuple[str, ...]) -> bool:
    """Whether the test ``name`` of a file, with these fixtures, uses an oracle."""
    known = oracles_in(path)
    return "*" in known or bool(known & {name, *fixtures})


def _names_in(node: ast.AST) -> set[str]:
    """Return what a definition refers to; the parameters of a test or a fixture are fixtures."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names | {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}


def _imports_oracle(node: ast.AST) -> bool:
    return any(module.split(".")[0] in ORACLES for each in ast.walk(node) for module in _modules(each))


def _modules(node: ast.AST) -> list[str]:
    """Return the modules that one node imports, by a statement or with ``importorskip``."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "importorskip":
        return [value.value for value in node.args[:1] if isinstance(value, ast.Constant)]
    return []
