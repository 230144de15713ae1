"""Every function can be read at one go, and everything that is public or cited is there."""

from collections import Counter

import pytest
from shape import rules
from shape.rules import offences

from benchmarks.shape import Source, house_of, sources_of_tree

MOST_LINES_OF_NODES = 3_000
NETWORKS = {"audio_vae", "text", "transformer", "upscaler", "video_vae"}


@pytest.fixture(scope="module")
def sources():
    return sources_of_tree()


@pytest.fixture(scope="module")
def house(sources):
    return house_of(sources)


def test_nothing_is_out_of_shape(sources):
    found = offences(sources)
    counted = ", ".join(f"{count} of {rule}" for rule, count in Counter(each.rule for each in found).most_common())
    if found:
        pytest.fail(f"{len(found)} offences: {counted}\n" + "\n".join(map(str, found)), pytrace=False)


def test_the_house_is_low_and_its_arrows_are_few_and_point_down(house):
    assert len(house.arrows) < 141 and max(house.floors.values()) < 10
    assert house.back_up == [] and house.circles == ()


def test_the_nodes_are_thin(sources):
    lines = sum(source.lines for source in sources if source.path.startswith("nodes/"))
    assert lines <= MOST_LINES_OF_NODES, "what the command line could need as well belongs to ltx2_core"


def test_memory_knows_no_network(house):
    assert set(house.rooms) >= NETWORKS
    assert not NETWORKS & {under for above, under in house.arrows if above == "memory"}


def found(text: str, path: str = "ltx2_core/sampling/example.py") -> list[tuple[str, str]]:
    """Rule and sentence of the offences in a source that has a docstring."""
    return [(each.rule, each.what) for each in offences([Source(path, f'"""Example."""\n{text}\n')])]


def test_a_good_source_has_no_offence():
    assert (
        found('def f(x: int, *values: int) -> int:\n    """See benchmarks/shape.py."""\n    return g(*values, x)') == []
    )


def function(name: str = "_f", parameters: str = "", body: str = "pass") -> str:
    return f"def {name}({parameters}):\n    {body}"


def test_lines():
    assert found(function(body="\n    ".join(["x = 1"] * 59))) == []
    assert found(function(body="\n    ".join(["x = 1"] * 60))) == [("lines", "_f has 61, at most 60")]


def test_parameters():
    eight = ", ".join("abcdefgh")
    assert found(function(parameters=eight)) == []
    assert found(function(parameters=f"{eight}, *, i")) == [("parameters", "_f has 9, at most 8")]
    assert found(f"class _C:\n    def f(self, {eight}): pass") == []
    assert found(f"class _C:\n    def f(self, {eight}, **more): pass") == [("parameters", "f has 9, at most 8")]


def test_complexity():
    twelve = "\n    ".join(["if x: pass"] * 11)
    assert found(function(body=twelve)) == []
    assert found(function(body=f"{twelve}\n    x or y")) == [("complexity", "_f has 13, at most 12")]


def test_a_node_is_short_and_may_take_settings():
    def node(lines: int, parameters: str = "a, b, c, d, e, f, g, h, **settings") -> str:
        body = "\n        ".join(["x = 1"] * lines)
        return f"class _Node(Node):\n    id = 'A'\n    def execute(cls, {parameters}):\n        {body}"

    assert found(node(15)) == []
    assert found(node(16)) == [("lines", "execute has 16, at most 15")]
    assert found(node(16).replace("execute", "given")) == [("lines", "given has 16, at most 15")]
    assert found(node(16, "a").replace("id =", "name =")) == []
    assert found(node(1, "a, b, c, d, e, f, g, h, i")) == [("parameters", "execute has 9, at most 8")]


def test_only_the_facade_is_excepted():
    many = function("generate", ", ".join(f"a{i}" for i in range(20)), '"""Make a clip."""')
    assert found(many, "ltx2_core/pipeline/generate.py") == []
    assert found(many) == [("parameters", "generate has 20, at most 8")]
    assert found(many.replace('."""', '."""\n' + "    x = 1\n" * 70), "ltx2_core/pipeline/generate.py") != []


@pytest.mark.parametrize("call", ["f(*(a, b), c)", "f(*[a])", 'f(**{"a": 1})', "x = g(f(1, *(a, b)))"])
def test_starred_literals(call):
    ((rule, _),) = found(call)
    assert rule == "starred literal"


@pytest.mark.parametrize("call", ["f(*values)", "f(**settings)", "f(**settings | {'a': 1})", "[*(1, 2)]"])
def test_starred_values_are_no_literals(call):
    assert found(call) == []


def test_bare_any():
    public = 'def f(x: Any, y: "Any | None", z: list[Any], *a: Any, **k: Any) -> Any:\n    """Do."""'
    whose = ["x of f", "the result of f"]
    assert found(public) == [("bare Any", each) for each in whose]
    assert found(public.replace('"Any | None"', "Any | None"))[1] == ("bare Any", "y of f")
    assert found(public.replace("def f", "def _f")) == []
    assert found('class C:\n    """C."""\n    def __init__(self, x: Any): pass') == [("bare Any", "x of __init__")]


def test_docstrings():
    text = "class C:\n    @property\n    def p(self): pass\n    def _q(self): pass\ndef f(): pass\ndef _g(): pass"
    assert found(text) == [("docstring", f"{name} has none") for name in "Cpf"]
    assert [each.what for each in offences([Source("a.py", "x = 1")])] == ["the file has none"]
    assert found('class C:\n    """C."""\n    def execute(cls): pass\n    @p.setter\n    def p(self, x): pass') == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("# see sampling.md", "sampling.md is not in the tree"),
        ('def f():\n    """As in ltx2_core/nothing.py."""', "ltx2_core/nothing.py is not in the tree"),
        ("x = 1  # (README.md of nothing/README.md)", "nothing/README.md is not in the tree"),
    ],
)
def test_cited_files(text, what):
    assert found(text) == [("cited file", what)]


def test_what_may_be_cited(monkeypatch):
    assert found("# benchmarks/plan_table.py, shape.py, README.md, ltx_core/model/x.py, https://a.org/b.py") == []
    monkeypatch.setattr(rules, "_headings", lambda readme: {"Modulation"})
    assert found('# see README.md,\n# "Modulation"') == []
    page = "README.md"
    assert found(f'# see {page}, "Tides"') == [("cited chapter", 'ltx2_core/sampling/README.md has no "Tides"')]


def test_specs_are_not_cited():
    assert found("# spec: section 3") == [("spec", "spec: section 3")]
    assert found('def f():\n    """Do (spec: 7a)."""') == [("spec", "Do (spec: 7a).")]
    assert found("x = 'spec: in a text'  # a specification: fine") == []
