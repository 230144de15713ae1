"""The names of nodes, inputs and outputs in other languages, made from what a running ComfyUI says of the nodes.

python tests/pack/locales.py

starts a ComfyUI and writes the files of ``locales`` anew. English repeats what the nodes say; the words of the other
languages stand in words.txt. Descriptions and tooltips are English everywhere.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pack.client import Client
from pack.help import NUMBERED
from pack.host import PACK, REPOSITORY, Host, serve
from pack.workflow import inputs_of

FOLDER = REPOSITORY / "locales"
LANGUAGES = ("zh", "ja", "ko")  # in the order of words.txt
SETTING = "LTX-2: live preview"

Words = dict[str, dict[str, dict[str, str]]]  # section -> English -> language -> word


def words() -> Words:
    """Everything in words.txt."""
    found: Words = {}
    for line in Path(__file__).with_name("words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            english, *others = (each.strip() for each in line.split("|"))
            section[english] = dict(zip(LANGUAGES, others, strict=True))
    return found


def all_files(ours: dict[str, Any]) -> dict[str, Any]:
    """The content of each file of ``locales`` by its path, for our entries in ``/object_info``."""
    known, files = words(), {"en/nodeDefs.json": {name: in_english(info) for name, info in ours.items()}}
    for language in LANGUAGES:

        def word(section: str, english: str, language: str = language) -> str:
            return known[section][english][language]

        def label(name: str, word: Any = word) -> str:
            numbered = NUMBERED.fullmatch(name)
            return f"{word('names', numbered[1].rstrip('_'))} {numbered[2]}" if numbered else word("names", name)

        files[f"{language}/nodeDefs.json"] = {
            name: {
                "display_name": f"LTX-2 {word('nodes', name)}",
                "inputs": {each: {"name": label(each)} for each, _, _ in inputs_of(info)},
                "outputs": {str(at): {"name": label(each)} for at, each in enumerate(info["output_name"])},
            }
            for name, info in ours.items()
        }
        menus = {info["category"].split("/")[1] for info in ours.values()}
        files[f"{language}/main.json"] = {"nodeCategories": {each: word("categories", each) for each in sorted(menus)}}
        files[f"{language}/settings.json"] = {"ltx2av_LivePreview": {"name": word("settings", SETTING)}}
    return files


def in_english(info: dict) -> dict[str, Any]:
    """What a node says of itself."""
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {
            name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
            for name, _, options in inputs_of(info)
        },
        "outputs": {
            str(at): {"name": name, "tooltip": text}
            for at, (name, text) in enumerate(zip(info["output_name"], info["output_tooltips"]))
        },
    }


def as_text(content: Any) -> str:
    """JSON as it stands in a file."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write_all() -> None:
    """Start a ComfyUI, and write every file anew."""
    with TemporaryDirectory() as folder, serve(Host.find(), Path(folder)) as server:
        info = Client(server.address).object_info()
    ours = {name: each for name, each in info.items() if each["python_module"] == f"custom_nodes.{PACK}"}
    for path, content in all_files(ours).items():
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(as_text(content), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_all()
