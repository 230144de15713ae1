"""The tables of README.md that follow from the code: the shipped workflows, and the files with their links.

PYTHONPATH=tests python tests/pack/readme.py

writes them anew. In README.md each stands between a comment with its name and the comment "end".
"""

import re

from pack.graphs import GRAPHS
from pack.host import REPOSITORY
from pack.links import FILES, LICENCES, File

README = REPOSITORY / "README.md"

# What a workflow needs beside a model and Gemma, and what files are for, by the groups of links.py.
NEEDED = {"upscalers": "upscaler", "distilled_loras": "distilled LoRA", "loras": "LoRAs", "ic_loras": "IC-LoRA"}
USES = {
    "models": "the model: one of them",
    "gemma": "the text encoder of all",
    "upscalers": "second stage",
    "distilled_loras": "second stage of dev models",
    "loras": "a camera move",
    "ic_loras": "control by a video",
}


def workflows() -> str:
    """A row for each workflow: its picture, what it is for, and what it needs beside a model and Gemma."""
    rows = []
    for graph in (make() for make in GRAPHS):
        picture = f'<img src="workflows/{graph.name}.jpg" width="110">'
        needs = ", ".join(NEEDED[group] for group in graph.files if group in NEEDED)
        rows.append(f"| {picture} | `{graph.name}` | {graph.title} | {needs} |")
    return "\n".join(["| | workflow | what for | needs also |", "|---|---|---|---|", *rows])


def files() -> str:
    """A row for each kind of file, with where it is downloaded and where ComfyUI keeps it; then the licences."""
    rows = []
    for group, use in USES.items():
        those = [each for each in FILES if each.group == group]
        links = ", ".join(f"[{label_of(each)}]({each.url})" for each in those)
        rows.append(f"| {use} | {links} | `models/{those[0].directory}` |")
    licences = ", ".join(f"[{name}]({url})" for name, url in LICENCES.items())
    table = "\n".join(["| for | download | into |", "|---|---|---|", *rows])
    return f"{table}\n\nThey come under licences of their own: {licences}."


def label_of(file: File) -> str:
    """What a link is called in a row that says already what kind of file it is."""
    return file.title.removeprefix("upscaler ").removeprefix("distilled LoRA ")


TABLES = {"workflows": workflows, "files": files}


def table_in(page: str, name: str) -> str:
    """What stands between the comments of this name."""
    (found,) = re.findall(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    return found


def with_table(page: str, name: str, new: str) -> str:
    """``page`` with another table of this name."""
    return page.replace(
        f"<!-- {name} -->\n{table_in(page, name)}\n<!-- end -->", f"<!-- {name} -->\n{new}\n<!-- end -->"
    )


def write_all() -> None:
    """Write every table anew."""
    page = README.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        page = with_table(page, name, make())
    README.write_text(page, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_all()
