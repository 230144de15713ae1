"""Who types a common word into ComfyUI's own search box finds our nodes near its top, and so who drops a link."""

import pytest
from pack.host import PACK
from pack.visits import nodes2
from pack.workflow import inputs_of

pytestmark = [pytest.mark.comfy, pytest.mark.browser]


WORDS = """
ltx; ltx2; ltx-2; ltx 2.3; t2v; i2v; a2v; v2a; v2v; flf2v; text to video; image to video; audio to video; video to
audio; vram; low vram; block swap; offload; out of memory; fp8; quantization; distilled; gemma; preview; preset;
recipe; aspect ratio; resolution; seconds; duration; fps; speed; slow motion; speech; voice; lip sync; foley; sound
effects; music video; talking; character; identity; enhance; director; timeline; storyboard; extend; long video;
loop; keyframe; first last frame; retake; inpaint; stg; cfg; hires fix; upscale; 4k; lora; image; video;
video with sound; text2video; image2video; img2vid; lipsync; talking head; avatar; continue video; start end frame;
interpolate; 60fps; negative prompt; oom; teacache; upscale video; controlnet; vid2vid
"""
AT_LEAST = 65


def test_most_words_find_ours_among_the_first_five(visit, object_info):
    words = [" ".join(word.split()) for word in WORDS.split(";")]
    assert len(words) == len({*words}) == 78
    empty = {"nodes": [], "links": [], "version": 0.4}
    seen = visit("search.cjs", nodes2(False), workflow=empty, words=words)
    found = seen["found"]
    ours = tuple(
        info["display_name"] for info in object_info.values() if info["python_module"] == f"custom_nodes.{PACK}"
    )
    missed = {word: texts for word, texts in found.items() if not any(text.startswith(ours) for text in texts)}
    assert len(words) - len(missed) >= AT_LEAST, "\n".join(f"{word}: {texts}" for word, texts in missed.items())

    made = {kind for info in object_info.values() for kind in info["output"] if str(kind).startswith("LTX2AV")}
    assert {*seen["suggested"]} == made
    for kind, (_, *offered) in seen["suggested"].items():
        assert offered and all(kind in kinds_of(object_info[name]) for name in offered), kind
        assert kind in ("LTX2AV_MEL", "LTX2AV_GEMMA") or "LTX2AVSample" in offered, f"{kind} is offered no sampler"


def kinds_of(info: dict) -> set[str]:
    """The types of a node's inputs."""
    return {str(kind) for _, kind, _ in inputs_of(info)}
