"""The script that measures the shape of the code counts what it says."""

import ast
import json

import pytest

from benchmarks.shape import (
    Source,
    body_length,
    comments_per_100_lines,
    complexity,
    house_of,
    length,
    main,
    nodes_of,
    parameters,
    shape_of,
    sources_of_tree,
    spread,
)


def function(text: str) -> ast.FunctionDef:
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.FunctionDef)
    return node


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", 1),
        ("if a: pass\n elif b: pass\n else: pass", 3),
        ("for a in b: pass\n else: pass", 3),
        ("while a and b or c: pass", 4),
        ("try: pass\n except A: pass\n except B: pass\n else: pass\n finally: pass", 4),
        ("return [x for x in y if x if z]", 4),
        ("return a if b else c", 2),
        ("assert a and b", 2),
        ("with a: pass", 1),
        ("return lambda x: x", 1),
        ("match a:\n  case 1: pass\n  case 2: pass\n  case _: pass", 3),
        ("def g():\n  if a: pass\n return g", 1),
    ],
)
def test_complexity(body, expected):
    assert complexity(function(f"def f():\n {body}")) == expected


def test_complexity_is_that_of_radon():
    visitors = pytest.importorskip("radon.visitors")
    for source in sources_of_tree():
        theirs = {}
        waiting = [*visitors.ComplexityVisitor.from_code(source.text).blocks]
        while waiting:
            block = waiting.pop()
            if hasattr(block, "methods"):
                waiting += [*block.methods, *block.inner_classes]
            else:
                theirs[block.lineno] = block.complexity
                waiting += block.closures
        assert {each.lineno: complexity(each) for each in source.functions} == theirs, source.path


def test_lengths_and_parameters():
    text = 'def f(self, a, /, b, *c, d=1, **e):\n    """Say.\n\n    More.\n    """\n    x = 1\n    return x'
    assert (length(function(text)), body_length(function(text))) == (7, 2)
    assert [each.arg for each in parameters(function(text))] == ["a", "b", "d", "c", "e"]


def test_spread():
    assert spread(range(100), 0.5, 0.95, 1) == [49.5, 95, 99]
    assert spread([], 0.5, 1) == [0, 0]


NODE = '''
class Ball(Node):
    """A node."""

    id = "Ball"
    inputs = [
        1,
    ]

    def execute(cls, a: int, b):
        x = a
        return x  # said
'''


def test_a_row_of_numbers():
    source = Source("nodes/a.py", NODE)
    row = shape_of([source])
    assert (row["files"], row["lines"], row["functions"]) == (1, 12, 1)
    assert (row["args annotated %"], row["docstrings %"]) == (50, 50)
    assert comments_per_100_lines([source]) == 11.1
    assert nodes_of([source]) == {
        "nodes": 1,
        "body med / p95 / max": [2, 2, 2],
        "body <= 40 lines %": 100,
        "schema med / max": [4, 4],
        "most params": 2,
    }


def test_nodes_of_revisions_that_made_their_schema_themselves():
    old = NODE.replace('id = "Ball"\n    inputs = [\n        1,\n    ]', "def define_schema(cls):\n        return 1")
    assert nodes_of([Source("nodes/a.py", old)])["schema med / max"] == [2, 2]
    assert nodes_of([Source("nodes/a.py", NODE.replace("id =", "name ="))])["nodes"] == 0


def house(**files: str):
    sources = [Source(f"{name.replace('__', '/')}.py", text) for name, text in files.items()]
    return house_of(sources, scripts=False)


def test_rooms_arrows_and_floors():
    found = house(
        ltx2_core__a="",
        ltx2_core__b__x="from .. import a\nfrom ..a import y",
        ltx2_core__b__z="from .x import w",
        nodes__n="def f():\n    from ..ltx2_core.b.x import w",
        benchmarks__m="import ltx2_core.a\nimport torch",
    )
    assert found.arrows == {("b", "a"): 2, ("nodes", "b"): 1, ("benchmarks", "a"): 1}
    assert found.floors == {"a": 1, "b": 2, "nodes": 3, "benchmarks": 2}
    assert found.back_up == [] and found.circles == ()


def test_an_arrow_back_up_is_not_yet_a_circle_of_files():
    found = house(
        ltx2_core__a__one="from ..b.x import y, z\nfrom ..b.w import v",
        ltx2_core__b__x="",
        ltx2_core__b__w="",
        ltx2_core__b__y="from ..a import one",
    )
    assert found.back_up == [("b", "a")] and found.circles == ()
    assert found.floors == {"a": 2, "b": 1}


def test_a_circle_of_files():
    found = house(ltx2_core__a="from . import b", ltx2_core__b="def f():\n    from .a import x")
    assert found.circles == (("ltx2_core.a", "ltx2_core.b"),)


@pytest.mark.slow
def test_the_tables_are_printed_and_written_and_no_files_of_the_project_import_each_other(capsys, tmp_path):
    main(["--json", str(tmp_path / "shape.json")])
    assert "| core without mini |" in capsys.readouterr().out
    assert json.loads((tmp_path / "shape.json").read_text())["house"]["circles"] == []
