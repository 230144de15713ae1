"""The shipped workflows in a browser, in both of ComfyUI's renderers: they load, show, run."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from golden import FOLDER
from pack.client import Prompt
from pack.workflow import BYPASSED, SHIPPED, inputs_of, to_prompt

pytestmark = [pytest.mark.comfy, pytest.mark.browser]

SESSION = Path(__file__).parent / "browser" / "session.cjs"

# What ComfyUI's own page complains about for a user without files, and without a network.
USUAL = ["/user.css", "/userdata", "/favicon.ico", "graph accessed before initialization", "huggingface.co"]


@pytest.fixture(scope="module")
def node_environment() -> dict[str, str]:
    """The environment in which Node finds playwright-core: above the tests, in LTX2_PLAYWRIGHT or among npm's own."""
    if not shutil.which("node"):
        pytest.skip("no Node.js")
    npm = shutil.which("npm")
    folders = [os.environ.get("LTX2_PLAYWRIGHT"), os.environ.get("NODE_PATH")]
    folders += [subprocess.run([npm, "root", "-g"], capture_output=True, text=True).stdout.strip()] if npm else []
    environment = {**os.environ, "NODE_PATH": os.pathsep.join(filter(None, folders))}
    question = ["node", "-e", "require.resolve('playwright-core')"]
    if subprocess.run(question, cwd=SESSION.parent, env=environment, capture_output=True).returncode:
        pytest.skip("no playwright-core: npm install playwright-core, and set LTX2_PLAYWRIGHT to its node_modules")
    return environment


@pytest.fixture(scope="module")
def chromium() -> str:
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return found or pytest.skip("no Chromium: set CHROMIUM to one")


@pytest.mark.parametrize("renderer", ["canvas", "nodes2"])
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_workflow_loads_shows_and_runs(
    server, client, object_info, node_environment, chromium, tmp_path, path, renderer
):
    workflow = json.loads(path.read_text())
    expected = to_prompt(workflow, object_info)
    task = {
        "address": server.address,
        "chromium": chromium,
        "workflow": workflow,
        "nodes2": renderer == "nodes2",
        "screenshot": str(tmp_path / f"{renderer}.png"),
    }
    # A visitor who has been here before: no tour of the templates.
    client.fetch("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": task["nodes2"]})
    command = ["node", str(SESSION)]
    session = subprocess.run(
        command, env=node_environment, input=json.dumps(task), capture_output=True, text=True, timeout=180
    )
    assert session.returncode == 0, session.stderr
    seen = json.loads(session.stdout)

    assert content(seen["prompt"]) == content(expected)
    assert seen["sliders"] == sliders_in(expected, object_info)
    assert seen["end"] == "execution_success", "\n".join(seen["errors"])
    savers = [key for key, each in expected.items() if each["class_type"] in ("SaveVideo", "SaveAudio")]
    assert savers and {*savers} <= {*seen["outputs"]}
    assert not [error for error in seen["errors"] if not any(usual in error for usual in USUAL)]


@pytest.mark.parametrize("saved_with", ["now", "0.1"])
@pytest.mark.parametrize("name", ["text_to_video_guided", "refine_4k", "ic_lora_control"])
def test_a_bypassed_node_hands_on_what_our_rule_says(
    server, client, object_info, node_environment, chromium, name, saved_with
):
    folder = FOLDER / "workflows_0.1" if saved_with == "0.1" else SHIPPED[0].parent
    workflow = json.loads((folder / f"{name}.json").read_text())
    ours = [node["id"] for node in workflow["nodes"] if node["type"].startswith("LTX2AV")]
    client.fetch("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False})
    task = {"address": server.address, "chromium": chromium, "workflow": workflow, "bypass": ours}
    command = ["node", str(SESSION.with_name("bypass.cjs"))]
    session = subprocess.run(
        command, env=node_environment, input=json.dumps(task), capture_output=True, text=True, timeout=180
    )
    assert session.returncode == 0, session.stderr
    prompts = json.loads(session.stdout)["prompts"]
    assert len(prompts) == len(ours)
    for number in ours:
        changed = json.loads(json.dumps(workflow))
        next(node for node in changed["nodes"] if node["id"] == number)["mode"] = BYPASSED
        assert content(prompts[str(number)]) == content(to_prompt(changed, object_info)), number


def content(prompt: Prompt) -> dict:
    """Without titles, and without the player that older pages send along with a sound."""
    return {
        key: (value["class_type"], {name: given for name, given in value["inputs"].items() if name != "audioUI"})
        for key, value in prompt.items()
    }


def sliders_in(prompt: Prompt, object_info: dict) -> list[list[float]]:
    """Minimum, maximum and value of each input that asks for a slider."""
    return [
        [options["min"], options["max"], value["inputs"][name]]
        for value in prompt.values()
        for name, _, options in inputs_of(object_info[value["class_type"]])
        if options.get("display") == "slider"
    ]
