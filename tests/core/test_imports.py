"""Which way things point: the architecture as a table, and the imports of every file held against it."""

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, get_origin

import pytest

ROOT = Path(__file__).parents[2]

# A room is a folder or a file of ltx2_core. A room may import itself and what stands behind its name.
GROUND = {"errors", "fields", "seeds", "geometry", "latents", "layers"}
NETWORKS = {"text", "transformer", "video_vae", "audio_vae", "upscaler"}
WEIGHTS = {"disk_cache", "checkpoint", "lora", "quantization", "memory"}
PROCESS = {"sampling", "conditioning", "media", "health"}

ALLOWED = {
    "errors": set(),
    "fields": {"errors"},
    "seeds": set(),
    "disk_cache": {"errors"},
    "geometry": {"errors"},
    "latents": {"errors", "geometry", "seeds"},
    "layers": {"errors"},
    # What is the velocity, the picture, the sound? Networks do not know each other, nor files.
    **dict.fromkeys(NETWORKS, GROUND),
    # Where are the weights, and in which form? These never see a sigma.
    "quantization": {"errors"},
    "checkpoint": {"errors", "disk_cache", "quantization"} | NETWORKS,
    "lora": {"errors", "fields", "checkpoint", "quantization"},
    "memory": {"errors", "layers", "disk_cache"},
    # From noise to a clip. These never see a state dict.
    "conditioning": GROUND | {"media"},
    "sampling": GROUND | NETWORKS | {"conditioning"},
    "health": GROUND,
    "media": {"errors"},
    # What can be asked of all of them.
    "settings": GROUND | {"sampling", "conditioning", "lora", "video_vae", "checkpoint", "quantization"},
    # The whole story, and who tells it.
    "pipeline": GROUND | NETWORKS | WEIGHTS | PROCESS | {"settings"},
    "tiny": GROUND | NETWORKS | WEIGHTS,
    "mini": GROUND | NETWORKS | WEIGHTS | PROCESS | {"settings", "pipeline"},
    "cli": GROUND | NETWORKS | WEIGHTS | PROCESS | {"settings", "pipeline", "tiny"},
    "__init__": GROUND | NETWORKS | WEIGHTS | PROCESS | {"settings", "pipeline"},
    "__main__": {"cli"},
}

# What the extra "standalone" installs, itself or through one of them. All else (triton, say) is optional: not imported
# at the top of a file.
INSTALLED = {"torch", "numpy", "einops", "safetensors", "tqdm", "av", "PIL"}
ORACLES = {"ltx_core", "ltx_pipelines", "diffusers"}
# ComfyUI's own modules, besides comfy.* and its kin; it has one called "nodes", and cannot import our "ltx2_core".
HOST = {"nodes", "folder_paths", "server", "execution", "latent_preview", "node_helpers"}


class Import(NamedTuple):
    target: str  # dotted, from the root of the repository or of another package
    inside: bool  # written with leading dots
    always: bool  # at the top of the file, in no function, condition or try


def imports(source: str, package: tuple[str, ...]) -> Iterator[Import]:
    """Everything that a file of ``package`` imports."""
    tree = ast.parse(source)
    top_level = set(tree.body)
    for node in ast.walk(tree):
        always = node in top_level
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, False, always) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = [*above, *filter(None, [node.module])]
            yield from (Import(".".join([*module, alias.name]), bool(node.level), always) for alias in node.names)


@cache
def imports_of(file: Path) -> tuple[Import, ...]:
    """Everything that a file of the repository imports; each is read once."""
    return tuple(imports((ROOT / file).read_text(encoding="ascii"), file.parent.parts))


@cache
def room_of(target: str) -> str:
    """The room in which ``ltx2_core.room.module.name`` lies; what the package itself offers lies in "__init__"."""
    _, room, *_ = *target.split("."), "__init__"
    exists = (ROOT / "ltx2_core" / room).is_dir() or (ROOT / "ltx2_core" / f"{room}.py").is_file()
    return room if exists else "__init__"


def top(target: str) -> str:
    return target.partition(".")[0]


def is_host(target: str) -> bool:
    return top(target) in HOST or (target.startswith("comfy") and top(target) != "comfy_api")


def offences(files: list[Path], wrong: Callable[[Path, Import], bool]) -> dict[str, set[str]]:
    """For each file, what it imports although that is ``wrong``."""
    found = {}
    for file in files:
        if targets := {each.target for each in imports_of(file) if wrong(file, each)}:
            found[str(file)] = targets
    return found


FILES = [
    path.relative_to(ROOT)
    for pattern in ("*.py", "ltx2_core/**/*.py", "nodes/**/*.py", "tests/**/*.py", "benchmarks/**/*.py")
    for path in sorted(ROOT.glob(pattern))
]
CORE = [file for file in FILES if file.parts[0] == "ltx2_core"]
ROOMS = sorted({".".join(file.parent.parts) for file in CORE if file.name == "__init__.py"})
PACK = [file for file in FILES if file.parts[0] in ("__init__.py", "nodes")]


def test_imports_are_understood():
    source = "import torch.nn\nfrom . import a\nfrom ..layers.rope import b\ntry:\n    import c\nfinally:\n    pass\n"
    assert list(imports(source, ("ltx2_core", "text"))) == [
        ("torch.nn", False, True),
        ("ltx2_core.text.a", True, True),
        ("ltx2_core.layers.rope.b", True, True),
        ("c", False, False),
    ]
    assert room_of("ltx2_core.media.write_clip") == "media"
    assert room_of("ltx2_core.geometry") == "geometry"
    assert room_of("ltx2_core.open_models") == room_of("ltx2_core") == "__init__"
    assert is_host("comfy.utils") and is_host("comfy_extras.nodes_lt") and is_host("nodes")
    assert not is_host("comfy_api.latest.io") and not is_host("torch")


def test_sources_are_plain_ascii():
    assert [str(file) for file in FILES if not (ROOT / file).read_bytes().isascii()] == []


def test_every_room_has_a_row():
    assert {room_of(".".join(file.with_suffix("").parts)) for file in CORE} <= ALLOWED.keys()


def test_the_core_points_one_way():
    def wrong(file: Path, each: Import) -> bool:
        room = file.with_suffix("").parts[1]
        return each.inside and (top(each.target) != "ltx2_core" or room_of(each.target) not in ALLOWED[room] | {room})

    assert offences(CORE, wrong) == {}


def test_the_core_knows_neither_the_host_nor_an_oracle():
    foreign = ORACLES | {"comfy_api", "ltx2_core"}
    assert (
        offences(CORE, lambda _, each: not each.inside and (is_host(each.target) or top(each.target) in foreign)) == {}
    )


def test_the_core_needs_only_what_is_installed_with_it():
    known = INSTALLED | sys.stdlib_module_names
    assert offences(CORE, lambda _, each: not each.inside and each.always and top(each.target) not in known) == {}


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_that_a_room_promises_is_there(room):
    found = import_module(room)
    assert [name for name in getattr(found, "__all__", ()) if not hasattr(found, name)] == []


@pytest.mark.parametrize("room", ROOMS[1:])  # users of the facade are not here
def test_what_a_room_promises_is_asked_for(room):
    """Every function and table is; types also describe what functions take and return."""
    values = {name: getattr(import_module(room), name) for name in getattr(import_module(room), "__all__", ())}
    types = {name for name, value in values.items() if isinstance(value, type) or get_origin(value) is not None}
    asked = {each.target for file in FILES if file.parent != Path(*room.split(".")) for each in imports_of(file)}
    assert [name for name in values if name not in types and f"{room}.{name}" not in asked] == []


def test_only_two_files_of_the_pack_talk_to_comfyui():
    others = [file for file in PACK if file not in (Path("nodes/host.py"), Path("nodes/engine.py"))]
    assert offences(others, lambda _, each: not each.inside and is_host(each.target)) == {}


def test_the_pack_finds_itself_by_relative_imports_and_knows_no_oracle():
    foreign = ORACLES | {"ltx2_core"}
    assert offences(PACK, lambda _, each: not each.inside and top(each.target) in foreign) == {}
