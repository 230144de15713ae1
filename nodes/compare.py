"""Which of two clips is better?"""

from fractions import Fraction
from typing import Any

import torch
from comfy_api.latest import InputImpl, Types, io

from ..ltx2_core.conditioning.compare import Comparison, rate_of
from ..ltx2_core.settings import ClipSettings
from . import inputs
from .values import Video, audio_of_video, video_source


class CompareClips(io.ComfyNode):
    """Two videos to one."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVCompareClips",
            "decode/Compare Clips",
            inputs=[
                inputs.socket(io.Video, "first", "A clip, whose size and frame rate count."),
                inputs.socket(io.Video, "second", "Another one."),
                *inputs.widgets(Comparison, "layout", "wipe", "sound", "gain"),
            ],
            outputs={"video": io.Video},
        )

    @classmethod
    def execute(cls, first: Video, second: Video, **settings: Any) -> io.NodeOutput:
        comparison = Comparison(**settings)
        sources = video_source(None, first), video_source(None, second)
        fps = rate_of(sources[0]) or Fraction(ClipSettings.fps)
        images = torch.cat(list(comparison.frames(*sources, fps)))
        heard = comparison.heard(audio_of_video(first), audio_of_video(second))
        audio = None if heard is None else {"waveform": heard.waveform[None], "sample_rate": heard.sample_rate}
        parts = Types.VideoComponents(images=images, audio=audio, frame_rate=fps)
        return io.NodeOutput(InputImpl.VideoFromComponents(parts))
