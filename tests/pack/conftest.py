"""One ComfyUI for all tests of the pack, started when the first of them asks for it."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pack.client import Client, Prompt
from pack.host import REPOSITORY, Host, NoHost, Server, serve
from pack.workflow import change, to_prompt

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


def place_tiny_models(models: Path, elsewhere: Path) -> None:
    """Random models of version 2.3: checkpoint and Gemma folder in ``models``, the same as two files ``elsewhere``."""
    command = [sys.executable, "-m", "ltx2_core", "tiny", str(elsewhere), "--version", "2.3"]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    for folder in (models / "checkpoints", models / "text_encoders", elsewhere / "checkpoints", elsewhere / "encoders"):
        folder.mkdir(parents=True)
    shutil.copy(elsewhere / "ltx-2.3-tiny.safetensors", models / "checkpoints")
    shutil.move(elsewhere / "ltx-2.3-tiny.safetensors", elsewhere / "checkpoints" / "elsewhere.safetensors")
    folder = elsewhere / "checkpoints" / "LTX-2-Diffusers"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.symlink_to(elsewhere / "checkpoints" / "elsewhere.safetensors")
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "shard-00001-of-00002.safetensors").touch()
    shutil.move(elsewhere / "gemma-tiny", models / "text_encoders")
    shutil.move(elsewhere / "gemma-tiny.safetensors", elsewhere / "encoders" / "gemma-elsewhere.safetensors")


@pytest.fixture
def client(server) -> Client:
    return Client(server.address)


@pytest.fixture(scope="session")
def object_info(server) -> dict:
    return Client(server.address).object_info()


@pytest.fixture(scope="session")
def shipped(object_info) -> Prompt:
    """The workflow as people open it, in the form the server runs."""
    workflow = json.loads((REPOSITORY / "workflows" / "text_to_video.json").read_text())
    return to_prompt(workflow, object_info)


@pytest.fixture
def prompt(shipped) -> Prompt:
    """The same with three steps, to be quick; a test may change it as it likes."""
    return change(copy.deepcopy(shipped), LTX2AVSchedule={"steps": 3})
