"""The moving preview: what the server sends with every step, and how the browser plays it on the sampler."""

import base64
import json
import re
import time
from io import BytesIO
from urllib.error import HTTPError

import numpy as np
import pytest
from golden import FOLDER
from pack.client import TEXT, Client, Prompt, Run, Websocket
from pack.visits import nodes2
from pack.workflow import add, change, node
from PIL import Image

pytestmark = pytest.mark.comfy


EVENT = "ltx2av.preview"


def picture(stream: dict) -> np.ndarray:
    """The image of a stream, (H, W, 3) in 0..255."""
    kind, content = stream["image"].split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(content))))


def frames(video: dict) -> np.ndarray:
    """The frames on a sheet, (F, H, W, 3)."""
    sheet, width, height = picture(video), video["width"], video["height"]
    rows, columns = sheet.shape[0] // height, sheet.shape[1] // width
    assert sheet.shape == (rows * height, columns * width, 3) and columns == video["columns"]
    places = sheet.reshape(rows, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    assert 0 <= len(places) - len(video["starts"]) < columns
    return places[: len(video["starts"])]


def test_previews_bring_all_frames_and_the_sound_of_the_clip(client, prompt):
    change(prompt, LTX2AVSample={"seed": 20}, LTX2AVSchedule={"steps": 6})
    run = client.run(prompt, preview="auto")
    clips = run.all(EVENT)
    assert {(clip["node"], clip["steps"]) for clip in clips} == {(node(prompt, "LTX2AVSample"), 6)}
    assert_steps([clip["step"] for clip in clips], 6)
    for clip in clips:
        assert clip["seconds"] == 33 / 24
        assert frames(clip["video"]).shape == (33, 24, 24, 3)
        np.testing.assert_allclose(clip["video"]["starts"], np.arange(33) / 24)
        assert picture(clip["audio"]).shape == (64, 138, 3)  # a mel frame every 10 ms
    first, last = (frames(clip["video"]).astype(int) for clip in (clips[0], clips[-1]))
    assert abs(last - first).max() > 50, "the preview does not move on"
    assert np.ptp(last, axis=0).max() > 50, "nothing moves in it"
    assert np.ptp(picture(clips[-1]["audio"])[:, :, 0]) > 100, "silence"


def assert_steps(shown: list[int], total: int) -> None:
    """The first and the last step, and some between them: steps of the miniature are too fast to show them all."""
    assert shown[0] == 1 and shown[-1] == total and shown == sorted(set(shown))


def test_only_who_runs_the_prompt_gets_its_preview_and_what_its_nodes_say(server, prompt):
    with Websocket(server.address, "/ws?clientId=somebody-else", timeout=1) as other:
        change(prompt, LTX2AVSample={"seed": 21})
        assert Client(server.address).run(prompt, preview="auto").all(EVENT)
        nobody = Client(server.address)
        nobody.id = None  # a program that does not listen
        queued = nobody.queue(change(prompt, LTX2AVSample={"seed": 22}))
        while queued not in json.loads(nobody.fetch(f"/history/{queued}")):
            time.sleep(0.1)
        heard = []
        with pytest.raises(TimeoutError):
            while True:
                heard.append(other.receive())
    kinds = {json.loads(content)["type"] for opcode, content in heard if opcode == TEXT}
    assert "status" in kinds and EVENT not in kinds
    assert all(opcode == TEXT for opcode, _ in heard)


def released(prompt: Prompt, precision: str) -> Prompt:
    """A tiny model without factors of its own, as far as the sampler; ``precision`` makes it another one each time."""
    change(prompt, LTX2AVLoadModel={"checkpoint": "ltx-2.3-tiny.safetensors", "precision": precision})
    change(prompt, LTX2AVLoadGemma={"text_encoder": "gemma-tiny"}, LTX2AVSchedule={"steps": 2})
    change(prompt, LTX2AVEmptyLatent={"width": 96, "height": 64, "frames": 17})
    load, sample = node(prompt, "LTX2AVLoadModel"), node(prompt, "LTX2AVSample")
    for decoder in "LTX2AVDecode", "SaveVideo":
        del prompt[node(prompt, decoder)]
    add(prompt, decode=("LTX2AVVideoDecode", {"model": [load, 0], "latent": [sample, 0]}))
    return add(prompt, show=("PreviewImage", {"images": ["decode", 0]}))


def test_a_released_model_shows_a_pixel_per_cell_and_hears_its_own_decoder(server, client, prompt):
    before = server.log.count("Built audio_decoder")
    clips = client.run(released(prompt, "bf16"), preview="auto").all(EVENT)
    assert len(clips) == 2
    for clip in clips:
        assert frames(clip["video"]).shape == (3, 2, 3, 3)
        np.testing.assert_allclose(clip["video"]["starts"], [0, 1 / 24, 9 / 24])
        assert picture(clip["audio"]).shape == (64, 71, 3)
    assert server.log.count("Built audio_decoder") == before + 1


def test_without_previews_nothing_is_sent_and_nothing_is_made_for_them(server, client, prompt):
    before = server.log.count("Built audio_decoder")
    run = client.run(released(prompt, "fp32"), preview="none")
    assert run.end == "execution_success" and node(prompt, "LTX2AVSample") in run.executed
    assert not run.all(EVENT) and not run.previews
    assert server.log.count("Built audio_decoder") == before


def test_a_browser_follows_its_own_setting_and_not_that_of_the_host(client, prompt):
    def shown(seed: int, preview: str) -> Run:
        return client.run(change(prompt, LTX2AVSample={"seed": seed}), preview=preview)

    client.fetch("/ltx2av/live_preview", {"client": client.id, "on": True})
    run = shown(23, "none")
    assert run.all(EVENT) and not run.previews
    assert run.all("ltx2av.status")[-1]["status"].startswith("sampling, step 3 of 3")
    client.fetch("/ltx2av/live_preview", {"client": client.id, "on": False})
    assert not shown(24, "none").all(EVENT)
    run = shown(25, "auto")
    assert not run.all(EVENT) and run.previews


def test_the_setting_takes_nothing_but_a_browser_and_a_choice(client):
    for told in ({"client": 1, "on": True}, {"client": "a"}, {"client": "a", "on": "yes"}, {}):
        with pytest.raises(HTTPError) as refusal:
            client.fetch("/ltx2av/live_preview", told)
        assert refusal.value.code == 400


def test_the_still_preview_shows_four_moments_above_the_sound(client, prompt):
    change(prompt, LTX2AVSample={"seed": 22})
    run: Run = client.run(prompt, preview="auto")
    still = np.asarray(Image.open(BytesIO(run.previews[-1][1]))).astype(int)
    height, width, _ = still.shape
    assert max(height, width) == 512  # the host's preview size, unless it is told otherwise
    assert abs(height / width - (1 + 1 / 6)) < 0.02  # a square, and the strip below it
    quarters = still[: width // 2, : width // 2], still[: width // 2, -(width // 2) :]
    assert abs(quarters[0] - quarters[1]).max() > 50, "all moments are the same"


@pytest.mark.browser
@pytest.mark.parametrize("renderer", ["canvas", "nodes2"])
def test_the_clip_plays_on_the_sampler(visit, tmp_path, renderer):
    workflow = json.loads((FOLDER / "workflows_0.1" / "text_to_video.json").read_text())
    sampler = next(each for each in workflow["nodes"] if each["type"] == "LTX2AVSample")
    schedule = next(each for each in workflow["nodes"] if each["type"] == "LTX2AVSchedule")
    sampler["widgets_values"][0] = 30 + ["canvas", "nodes2"].index(renderer)  # a seed that was not run before
    steps = schedule["widgets_values"][0] = 200  # long enough for a look while it runs
    # ComfyUI's own live preview method is what a fresh installation has: none.
    task = {"sampler": sampler["id"], "steps": 5, "screenshot": str(tmp_path / f"{renderer}.png")}
    seen = visit("preview.cjs", nodes2(renderer == "nodes2"), workflow=workflow, **task)

    assert seen["end"] == "execution_success", "\n".join(seen["errors"])
    assert {(node, total) for node, _, total in seen["events"]} == {(str(sampler["id"]), steps)}
    assert_steps([step for _, step, _ in seen["events"]], steps)
    assert seen["before"]["visible"] and seen["before"]["caption"] == "the preview appears here"
    assert seen["before"]["sizes"] == seen["after"]["sizes"], "a node has grown"
    for moment in "during", "after", "undone", "opened":
        shown = seen[moment]
        assert shown["visible"] and shown["widgets"] == 1
        assert shown["pictures"] > 3 and shown["playheads"] > 3, f"{moment}: it does not play"
        assert not shown["still"], f"{moment}: ComfyUI shows its still as well"
        (width, height), (sound_width, _) = shown["picture"], shown["sound"]
        assert width > 100 and height > 150 and abs(width - sound_width) < 1
    during, after = (seen[moment]["caption"].split(" \N{MIDDLE DOT} ") for moment in ("during", "after"))
    assert re.fullmatch(rf"sampling, step \d+ of {steps}", during[0]) and during[1].endswith("s per step")
    assert during[2].endswith(" left") and during[3] == "a clip of 1.4 s"
    assert after[0] == f"sampling, step {steps} of {steps}" and after[-1] == "a clip of 1.4 s"
    assert any(seen["after"]["said"]) and seen["undone"]["said"] == seen["after"]["said"]
    assert not seen["collapsed"]["visible"] and not seen["removed"]["widgets"]
    assert "ltx2av_preview" not in seen["saved"]
    assert not [message for message in seen["errors"] if "ltx2" in message.lower()]
