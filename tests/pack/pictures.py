"""The pictures of the help pages and of README.md, taken in a browser.

python tests/pack/pictures.py

starts a ComfyUI and a Chromium (with playwright-core, as the browser tests), takes every node as it is when it is
added, and what README.md shows, and puts them on their pages. Run it when inputs have changed.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pack.client import Client
from pack.help import PAGES, page_of
from pack.host import PACK, REPOSITORY, Host, Server, serve
from pack.visits import Browser, nodes2
from pack.workflow import inputs_of

DESCRIPTION = 0x010E  # the field of EXIF for it
IMAGES = PAGES / "images"
SHOWN = REPOSITORY / ".github" / "pictures"
SETTINGS = nodes2(True) | {
    "Comfy.Execution.PreviewMethod": "auto", "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
}  # fmt: skip
# What README.md shows: the workflow that is run, and of which node; None for all of it.
RUNS = {"text_to_video": ("text_to_video", None), "memory_plan": ("text_to_video_guided", "LTX2AVPlan")}


def seen_on(info: dict) -> str:
    """What is seen on a new node, of its entry in ``/object_info``: kept in its picture, to tell when it is too old."""
    inputs = [
        options.get("display_name") or name for name, _, options in inputs_of(info) if not options.get("advanced")
    ]
    return ", ".join([*inputs, *info["output_name"]])


def seen_in(picture: Path) -> str:
    """What a picture says that it shows."""
    with Image.open(picture) as file:
        return file.getexif().get(DESCRIPTION, "")


def with_picture(page: str, node_id: str) -> str:
    """``page`` with the picture of its node below the title."""
    title, _, rest = page.partition("\n\n")
    picture = f"![{title.removeprefix('# ')}](images/{node_id}.webp)\n\n"
    return f"{title}\n\n{picture}{rest.removeprefix(picture)}"


def take_all() -> None:
    """Start a ComfyUI and take every picture anew."""
    with TemporaryDirectory() as base, TemporaryDirectory() as taken, serve(Host.find(), Path(base)) as server:
        info = Client(server.address).object_info()
        ours = {name: each for name, each in info.items() if each["python_module"] == f"custom_nodes.{PACK}"}
        take(server, list(ours), Path(taken))
        for name, each in ours.items():
            save(Path(taken) / f"{name}.png", IMAGES / f"{name}.webp", seen_on(each))
            page = with_picture(page_of(name), name)
            (PAGES / f"{name}.md").write_text(page, encoding="utf-8", newline="\n")
        for name in RUNS:
            save(Path(taken) / f"{name}.png", SHOWN / f"{name}.webp")


def take(server: Server, kinds: list[str], folder: Path) -> None:
    """Let the browser write its pictures into ``folder``."""
    runs = {
        name: {"workflow": json.loads((REPOSITORY / "workflows" / f"{workflow}.json").read_text()), "node": kind}
        for name, (workflow, kind) in RUNS.items()
    }
    task = {"workflow": runs["text_to_video"]["workflow"], "kinds": kinds, "runs": runs, "folder": str(folder)}
    ends = Browser.find().visit(server, "pictures.cjs", SETTINGS, **task)["ends"]
    assert set(ends) == {"execution_success"}, ends


def save(taken: Path, path: Path, seen: str = "") -> None:
    """Keep a picture, with what is seen on it."""
    exif = Image.Exif()
    exif[DESCRIPTION] = seen
    path.parent.mkdir(exist_ok=True)
    Image.open(taken).convert("RGB").save(path, quality=70, method=6, exif=exif)


if __name__ == "__main__":
    take_all()
