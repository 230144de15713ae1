"""The shipped workflows, which ``shipped`` draws in columns.

PYTHONPATH=tests python tests/pack/graphs.py

starts a ComfyUI and writes every file in ``workflows`` anew. A test holds the files to what stands there.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pack.client import Client
from pack.drawing import written
from pack.host import REPOSITORY, Host, serve
from pack.shipped.edits import extend, inpaint, long_video, outpaint, retake, timeline
from pack.shipped.given import audio_to_video, first_last_frame, image_to_loop, image_to_video, video_to_audio
from pack.shipped.larger import hdr_video, raise_frame_rate, refine_4k, two_stage_1080p, upscale_my_video
from pack.shipped.loras import character, ic_lora_control, lora_camera, motion_tracks, reference_voice
from pack.shipped.prompts import (
    several_servers,
    text_to_audio,
    text_to_video,
    text_to_video_distilled,
    text_to_video_guided,
)

FOLDER = REPOSITORY / "workflows"

GRAPHS = (
    text_to_video, text_to_video_distilled, text_to_video_guided, image_to_video, first_last_frame, image_to_loop,
    audio_to_video, video_to_audio, extend, retake, inpaint, long_video, timeline, reference_voice, character,
    lora_camera, ic_lora_control, motion_tracks, outpaint, two_stage_1080p, raise_frame_rate, refine_4k,
    upscale_my_video, text_to_audio, hdr_video, several_servers,
)  # fmt: skip


def write_all() -> None:
    """Start a ComfyUI, and write every workflow anew."""
    with TemporaryDirectory() as folder, serve(Host.find(), Path(folder)) as server:
        info = Client(server.address).object_info()
    for make in GRAPHS:
        graph = make()
        (FOLDER / f"{graph.name}.json").write_text(written(graph, info), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_all()
