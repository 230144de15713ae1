"""The tables of inputs on the help pages, made from what a running ComfyUI says of the nodes.

python tests/pack/help.py

starts a ComfyUI and writes the table of every page in js/docs anew. On a page it stands between the heading "Inputs"
and the next one; all else is written by hand. There, the inputs of the node are bold, other names are not.

Texts of settings come from the core. What another input does is said by its row, from which the node has its tooltip:
for a new one write the row as | **name** | What it does. | first; kind, limits and place are put in.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pack.client import Client
from pack.host import PACK, REPOSITORY, Host, serve
from pack.workflow import default_of, has_control, inputs_of, is_widget

PAGES = REPOSITORY / "js" / "docs"
HEADING = "## Inputs\n"
FILES = re.compile("models/|input folder")  # in the text of a choice among files, others on every machine
NUMBERED = re.compile(r"(\w+_)(\d+)")
BOLD = re.compile(r"\*\*(.+?)\*\*")


def page_of(node_id: str) -> str:
    """The help page of a node."""
    return (PAGES / f"{node_id}.md").read_text(encoding="utf-8")


def table(info: dict) -> str:
    """What a node takes, of its entry in ``/object_info``: a row for each input, the advanced ones last."""
    rows: dict[tuple[str, str], list[str]] = {}
    inputs = sorted(inputs_of(info), key=lambda each: bool(each[2].get("advanced")))
    for name, kind, options in inputs:
        numbered, label = NUMBERED.fullmatch(name), options.get("display_name")
        optional = name in info["input"].get("optional", {}) and not is_widget(kind, options)
        text = f"({'; '.join(limits(name, kind, options, optional))}) {sentences(kind, options)}"
        shown = f"**{label}** ({name})" if label else f"**{name}**"
        rows.setdefault((numbered[1] if numbered else name, text), []).append(shown)
    # Inputs that differ only in their number share a row.
    lines = [f"| {' to '.join(dict.fromkeys((names[0], names[-1])))} | {text} |" for (_, text), names in rows.items()]
    return "\n".join(["| input | what it does |", "|---|---|", *lines]) + "\n"


def limits(name: str, kind: Any, options: dict, optional: bool) -> Iterator[str]:
    """What an input can be, and what it is at first."""
    if options.get("advanced"):
        yield "advanced"
    if not is_widget(kind, options):
        yield kind.removeprefix("LTX2AV_").replace("_", " ").lower()  # in words, which break in a narrow panel
    elif has_control(name, kind, options):
        yield "a whole number"
    elif kind in ("INT", "FLOAT"):
        step = options.get("step", 1)
        yield f"{options['min']:.10g} to {options['max']:.10g}" + (f" in steps of {step:g}" if step > 1 else "")
        yield f"default {options['default']:g}"
    elif kind == "BOOLEAN":
        yield f"on or off; default {'on' if options['default'] else 'off'}"
    elif kind == "STRING":
        yield "text" if options.get("multiline") else f"text; default `{options['default']}`"
    elif FILES.search(options.get("tooltip", "")):
        yield "a file"
    else:
        *others, last = (f"*{choice}*" for choice in options["options"])
        yield f"{', '.join(others)} or {last}; default *{default_of(kind, options)}*"
    if optional:
        yield "optional"


def sentences(kind: Any, options: dict) -> str:
    """The tooltip of an input, with its choices in italics, as Markdown in a table."""
    text = re.sub(r"([*|<`\\])", r"\\\1", " ".join(options.get("tooltip", "").split()))
    if kind != "COMBO" or FILES.search(text):
        return text
    choices = sorted(options["options"], key=len, reverse=True)
    return re.sub(rf"(?<!\w)({'|'.join(map(re.escape, choices))})(?!\w)", r"*\1*", text)


def with_table(page: str, new: str) -> str:
    """``page`` with another table of inputs."""
    before, after = split(page)
    return f"{before}{HEADING}\n{new}\n{after}"


def split(page: str) -> tuple[str, str]:
    """What stands before the heading of the inputs, and from the next heading on."""
    before, heading, rest = page.partition(HEADING)
    assert heading, "the page has no heading for its inputs"
    return before, rest[rest.index("## ") :]


def inputs_in(page: str) -> list[str]:
    """The names of the inputs in the table of a page."""
    before, after = split(page)
    names: list[str] = []
    for row in page.removeprefix(before).removesuffix(after).splitlines():
        if found := re.match(r"\| (\*\*.*?) \|", row):
            first, last = (re.findall(r"\w+", cell)[-1] for cell in (found[1].split(" to ") * 2)[:2])
            numbers = [NUMBERED.fullmatch(each) for each in (first, last)]
            if first != last and all(numbers):
                names += [f"{numbers[0][1]}{n}" for n in range(int(numbers[0][2]), int(numbers[1][2]) + 1)]
            else:
                names.append(first)
    return names


def outputs_in(page: str) -> list[str]:
    """The names of the outputs on a page, in its order."""
    section = re.search(r"^## Outputs\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    items = re.findall(r"^- (\*\*.*?):", section[1] if section else "", re.MULTILINE)
    return [name for item in items for name in BOLD.findall(item)]


def write_all() -> None:
    """Start a ComfyUI, and write every table anew."""
    with TemporaryDirectory() as folder, serve(Host.find(), Path(folder)) as server:
        info = Client(server.address).object_info()
    for name, node in info.items():
        if node["python_module"] == f"custom_nodes.{PACK}":
            page = page_of(name)
            if (new := with_table(page, table(node))) != page:
                (PAGES / f"{name}.md").write_text(new, encoding="utf-8", newline="\n")
                print(name)


if __name__ == "__main__":
    write_all()
