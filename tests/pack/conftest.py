"""One ComfyUI for all tests of the pack, started when the first of them asks for it; and the browser that visits it."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import tiny_parts
from gguf_files import common, gemma, transformer, write
from golden import FOLDER
from instruct import write_instruct
from pack.client import Client, Prompt
from pack.host import Host, NoHost, Server, run_inside, serve
from pack.visits import BEEN_HERE, Browser, Look, NoBrowser
from pack.workflow import change, to_prompt
from written import rewrite, write_mixed_gemma

from ltx2_core import tiny
from ltx2_core.mini.evaluate import BUILT_IN, GEMMA

EXTRA_PATHS = """
elsewhere:
  base_path: {folder}
  checkpoints: checkpoints
  text_encoders: encoders
"""


@pytest.fixture(scope="session")
def host() -> Host:
    try:
        return Host.find()
    except NoHost as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def server(host, tmp_path_factory) -> Iterator[Server]:
    base, elsewhere = tmp_path_factory.mktemp("comfyui"), tmp_path_factory.mktemp("elsewhere")
    place_tiny_models(base / "models", elsewhere)
    paths = base / "extra_model_paths.yaml"
    paths.write_text(EXTRA_PATHS.format(folder=elsewhere))
    with serve(host, base, "--extra-model-paths-config", str(paths)) as running:
        yield running


@pytest.fixture(scope="session")
def inside(host, tmp_path_factory) -> Iterator[Callable[[str, Path], dict]]:
    """What a script of this folder finds in the Python of ComfyUI: ``inside("vae.py", folder)``."""
    with run_inside(host, tmp_path_factory.mktemp("inside")) as ask:
        yield ask


def place_tiny_models(models: Path, elsewhere: Path) -> None:
    """Random models: 2.3 with a Gemma folder in ``models`` and as two files ``elsewhere``, and 2.5 in its parts; and
    the miniature in int8, with Gemma as in the file that ComfyUI's templates name."""
    tiny.write(elsewhere, "2.3")
    for folder in (models / "checkpoints", models / "text_encoders", elsewhere / "checkpoints", elsewhere / "encoders"):
        folder.mkdir(parents=True)
    tiny_parts.write_split(models)
    tiny_parts.write_diffusion_vae(models / "vae")
    tiny_parts.write_duration_head(models)
    shutil.copy(elsewhere / "ltx-2.3-tiny.safetensors", models / "checkpoints")
    shutil.move(elsewhere / "ltx-2.3-tiny.safetensors", elsewhere / "checkpoints" / "elsewhere.safetensors")
    folder = elsewhere / "checkpoints" / "LTX-2-Diffusers"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.symlink_to(elsewhere / "checkpoints" / "elsewhere.safetensors")
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "shard-00001-of-00002.safetensors").touch()
    place_gguf_files(models, elsewhere)
    rewrite(BUILT_IN, elsewhere / "checkpoints" / "mini-int8.safetensors", {".transformer_blocks.": "int8 rotated"})
    write_instruct(elsewhere / "encoders" / "instruct")
    write_mixed_gemma(GEMMA, elsewhere / "encoders" / "mini-fp4-mixed.safetensors")
    shutil.move(elsewhere / "gemma-tiny", models / "text_encoders")
    shutil.move(elsewhere / "gemma-tiny.safetensors", elsewhere / "encoders" / "gemma-elsewhere.safetensors")


def place_gguf_files(models: Path, elsewhere: Path) -> None:
    """The transformer and Gemma as GGUF, where people put them, and the VAEs that such files lack."""
    checkpoint = elsewhere / "checkpoints" / "elsewhere.safetensors"
    for folder in ("unet", "clip", "vae"):
        (models / folder).mkdir(exist_ok=True)
    write(models / "unet" / "tiny-Q8_0.gguf", *transformer(checkpoint, common("Q8_0")))
    write(models / "clip" / "gemma-Q8_0.gguf", *gemma(elsewhere / "gemma-tiny", "Q8_0"))
    (models / "vae" / "tiny-vaes.safetensors").symlink_to(checkpoint)


@pytest.fixture
def client(server) -> Client:
    return Client(server.address)


@pytest.fixture(scope="session")
def object_info(server) -> dict:
    return Client(server.address).object_info()


@pytest.fixture(scope="session")
def shipped(object_info) -> Prompt:
    """A graph with a schedule and sizes of its own, as 0.1 shipped it, in the form the server runs."""
    workflow = json.loads((FOLDER / "workflows_0.1" / "text_to_video.json").read_text())
    return to_prompt(workflow, object_info)


@pytest.fixture
def prompt(shipped) -> Prompt:
    """The same with three steps, to be quick; a test may change it as it likes."""
    return change(copy.deepcopy(shipped), LTX2AVSchedule={"steps": 3})


@pytest.fixture(scope="session")
def browser() -> Browser:
    try:
        return Browser.find()
    except NoBrowser as reason:
        pytest.skip(str(reason))


@pytest.fixture
def visit(browser, server) -> Look:
    """What a script of the folder ``browser`` sees of one task: ``visit("help.cjs", settings, kinds=[...])``."""
    return partial(browser.visit, server)


@pytest.fixture(scope="module")
def stay(browser, server) -> Iterator[Look]:
    """The same for several tasks of one test file, on a page for each script and settings: it takes 5 s to open."""
    pages: dict[str, Look] = {}
    with ExitStack() as stack:

        def look(script: str, settings: dict, **task: object) -> dict:
            key = json.dumps([script, settings])
            if key not in pages:
                pages[key] = stack.enter_context(browser.stay(server, script, settings | BEEN_HERE))
            return pages[key](**task)

        yield look
