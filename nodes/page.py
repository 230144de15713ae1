"""What the help page of a node says about it: the first paragraph, the outputs, and the words that find the node.

The pages are those that ComfyUI shows beside a node. Where they are missing, so are these words, and nothing else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PAGES = Path(__file__).parents[1] / "js" / "docs"
_OUTPUT = re.compile(r"^- (\*\*.+?): (.+?)(?=^- |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """One help page: ``description``, the text of each output, and what people type to find the node."""

    description: str
    outputs: dict[str, str]
    aliases: list[str]


@cache
def read_page(node_id: str) -> Page:
    """Return what the page of ``node_id`` says, without the marks of Markdown."""
    path = PAGES / f"{node_id}.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    start, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = dict(section.split("\n", 1) for section in rest)
    paragraphs = (each for each in start.split("\n\n")[1:] if not each.startswith("!["))  # a picture says nothing
    aliases = _plain(sections.get("Found by", ""))
    outputs = dict(_outputs(sections.get("Outputs", "")))
    return Page(_plain(next(paragraphs, "")), outputs, aliases.split(", ") if aliases else [])


def _outputs(section: str) -> Iterator[tuple[str, str]]:
    """Yield name and sentences of each output; several that share an entry share its text."""
    for names, text in _OUTPUT.findall(section):
        sentences = _plain(text)
        for name in re.findall(r"\w+", names):
            yield name, sentences[:1].upper() + sentences[1:]


def _plain(markdown: str) -> str:
    return " ".join(markdown.replace("*", "").replace("`", "").split())
