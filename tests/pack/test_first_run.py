"""The first run of somebody who has just installed the pack: a fresh ComfyUI, a template, a clip.

The figures are printed by: python -m pytest -s tests/pack/test_first_run.py
"""

import pytest
from pack.host import PACK, serve
from pack.visits import unusual

pytestmark = [pytest.mark.comfy, pytest.mark.browser]


def test_a_first_clip_takes_three_clicks_and_plays_while_it_is_made(host, browser, tmp_path):
    with serve(host, tmp_path / "comfyui") as server:
        task = {"pack": PACK, "template": "text_to_video", "screenshot": str(tmp_path / "first_run.png")}
        seen = browser.visit(server, "first_run.cjs", {}, newcomer=True, **task)
        log = server.log
    complaints = unusual(seen["errors"])
    print(
        f"\nfirst run: {seen['clicks']} clicks, {seen['seconds']['run']:.1f} s from Run to the clip "
        f"({seen['seconds']['whole']:.1f} s from the first page), {seen['previews']} previews, "
        f"{seen['pictures']} of their pictures seen, {len(complaints)} complaints in the console"
    )
    assert seen["end"] == "execution_success", log[-3000:]
    assert seen["clicks"] == 3 and seen["video"]
    assert seen["previews"] >= 2 and seen["pictures"] >= 5, "nothing plays while the clip is made"
    assert not complaints
    assert "Traceback" not in log
