"""What the help page of a node says about it: the first paragraph, its inputs and outputs, and the words that find it.

The pages are those that ComfyUI shows beside a node. Where they are missing, so are these words, and nothing else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PAGES = Path(__file__).parents[1] / "js" / "docs"
_ROW = re.compile(r"^\| (\*\*.+?) \| (?:\([^)]*\) )?(.*?) ?\|$", re.MULTILINE)  # of inputs, without kind and limits
_OUTPUT = re.compile(r"^- (\*\*.+?): (.+?)(?=^- |\Z)", re.MULTILINE | re.DOTALL)
_BOLD = re.compile(r"\*\*(\w+)\*\*")
_MARK = re.compile(r"\\(.)|[*`]")


@dataclass(frozen=True)
class Page:
    """One help page: ``description``, the texts of inputs and outputs, and what people type to find the node."""

    description: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    aliases: list[str]

    def input_text(self, name: str) -> str | None:
        """Return what an input does; those that differ only in their number share a row."""
        return self.inputs.get(_unnumbered(name))


@cache
def read_page(node_id: str) -> Page:
    """Return what the page of ``node_id`` says, without the marks of Markdown."""
    path = PAGES / f"{node_id}.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    start, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = dict(section.split("\n", 1) for section in rest)
    paragraphs = (each for each in start.split("\n\n")[1:] if not each.startswith("!["))  # a picture says nothing
    aliases = _plain(sections.get("Found by", ""))
    inputs = {_unnumbered(name): text for name, text in _named(_ROW, sections.get("Inputs", ""))}
    outputs = {name: text[:1].upper() + text[1:] for name, text in _named(_OUTPUT, sections.get("Outputs", ""))}
    return Page(_plain(next(paragraphs, "")), inputs, outputs, aliases.split(", ") if aliases else [])


def _named(entry: re.Pattern[str], section: str) -> Iterator[tuple[str, str]]:
    """Yield each name and its sentences; several that share an entry share its text."""
    for names, text in entry.findall(section):
        yield from ((name, _plain(text)) for name in _BOLD.findall(names))


def _unnumbered(name: str) -> str:
    return name.rstrip("0123456789")


def _plain(markdown: str) -> str:
    return " ".join(_MARK.sub(r"\1", markdown).split())
