"""The tables of README.md that follow from the code: the shipped workflows, and the files with their links.

PYTHONPATH=tests python tests/pack/readme.py

writes them anew. In README.md each stands between a comment with its name and the comment "end".
"""

import re

from pack.graphs import GRAPHS
from pack.host import REPOSITORY
from pack.links import FILES, LICENCES, ONLY_NEWEST, File

README = REPOSITORY / "README.md"

# What a workflow needs beside a model and Gemma, by the groups of links.py.
NEEDED = {
    "upscalers": "upscaler", "distilled_loras": "distilled LoRA", "loras": "LoRAs", "ic_loras": "IC-LoRA",
    ONLY_NEWEST: "LTX-2.5",
}  # fmt: skip
# What files are for: their folder of LTX-2.5, which comes in parts, and their group of earlier versions; "" for none.
USES = {
    "the model: one of them": ("diffusion_models", "models"),
    "its text encoder": ("text_encoders", "gemma"),
    "its pictures, its sound": ("vae", ""),
    "second stage": ("latent_upscale_models", "upscalers"),
    "second stage of dev": ("loras", "distilled_loras"),
    "length by prompt": ("model_patches", ""),
    "a camera move": ("", "loras"),
    "control by video": ("", "ic_loras"),
}


def workflows() -> str:
    """A row for each workflow: its picture, what it is for, and what it needs beside a model and Gemma."""
    rows = []
    for graph in (make() for make in GRAPHS):
        picture = f'<img src="workflows/{graph.name}.jpg" width="110">'
        groups = (ONLY_NEWEST,) if ONLY_NEWEST in graph.files else graph.files  # which says all
        needs = ", ".join(NEEDED[group] for group in groups if group in NEEDED)
        rows.append(f"| {picture} | `{graph.name}` | {graph.title} | {needs} |")
    return "\n".join(["| | workflow | what for | needs also |", "|---|---|---|---|", *rows])


def files() -> str:
    """A row for each kind of file, with where it is downloaded and where ComfyUI keeps it; then the licences."""
    rows = []
    for use, (folder, group) in USES.items():
        parts = [each for each in FILES if each.is_newest and each.directory == folder]
        earlier = [each for each in FILES if each.group == group and not each.is_newest]
        into = ", ".join(dict.fromkeys(f"`{each.directory}`" for each in parts + earlier))
        rows.append(f"| {use} | {links(parts)} | {links(earlier)} | {into} |")
    licences = ", ".join(f"[{name}]({url})" for name, url in LICENCES.items())
    table = "\n".join(["| for | LTX-2.5 | 2.3 and 2.0 | into `models/` |", "|---|---|---|---|", *rows])
    return f"{table}\n\nThey come under licences of their own: {licences}."


def links(those: list[File]) -> str:
    """Links to these files, called by what their row and column do not say already."""
    return ", ".join(f"[{label_of(each)}]({each.url})" for each in those)


def label_of(file: File) -> str:
    """What a link is called: of earlier versions without its kind."""
    return file.title if file.is_newest else file.title.removeprefix("upscaler ").removeprefix("distilled LoRA ")


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
