"""One ComfyUI for all tests of the pack, started when the first of them asks for it; and the browser that visits it."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from golden import FOLDER
from pack.client import Client, Prompt
from pack.host import REPOSITORY, Host, NoHost, Server, serve
from pack.workflow import change, to_prompt

BROWSER = Path(__file__).parent / "browser"

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
    """A graph with a schedule and sizes of its own, as 0.1 shipped it, in the form the server runs."""
    workflow = json.loads((FOLDER / "workflows_0.1" / "text_to_video.json").read_text())
    return to_prompt(workflow, object_info)


@pytest.fixture
def prompt(shipped) -> Prompt:
    """The same with three steps, to be quick; a test may change it as it likes."""
    return change(copy.deepcopy(shipped), LTX2AVSchedule={"steps": 3})


@pytest.fixture(scope="session")
def node_environment() -> dict[str, str]:
    """The environment in which Node finds playwright-core: above the tests, in LTX2_PLAYWRIGHT or among npm's own."""
    if not shutil.which("node"):
        pytest.skip("no Node.js")
    npm = shutil.which("npm")
    folders = [os.environ.get("LTX2_PLAYWRIGHT"), os.environ.get("NODE_PATH")]
    folders += [subprocess.run([npm, "root", "-g"], capture_output=True, text=True).stdout.strip()] if npm else []
    environment = {**os.environ, "NODE_PATH": os.pathsep.join(filter(None, folders))}
    question = ["node", "-e", "require.resolve('playwright-core')"]
    if subprocess.run(question, cwd=BROWSER, env=environment, capture_output=True).returncode:
        pytest.skip("no playwright-core: npm install playwright-core, and set LTX2_PLAYWRIGHT to its node_modules")
    return environment


@pytest.fixture(scope="session")
def chromium() -> str:
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return found or pytest.skip("no Chromium: set CHROMIUM to one")
