"""Two clips as one: which is better, and what is kept of one in the other?"""

from fractions import Fraction
from typing import Any

import torch
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ..ltx2_core.conditioning.blend import Blending
from ..ltx2_core.conditioning.compare import Comparison, rate_of
from ..ltx2_core.geometry import exact_fps
from ..ltx2_core.settings import ClipSettings
from . import inputs
from .values import Chain, ConditionsType, Video, audio_of_video, video_source


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


class BlendClip(io.ComfyNode):
    """Frames, and the reference of which they keep a part."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVBlend",
            "decode/Blend with Reference",
            inputs=[
                inputs.socket(io.Image, "images", "The frames of the clip, from LTX-2 Video VAE Decode."),
                inputs.socket(
                    ConditionsType,
                    "conditions",
                    "What the clip was made with, as at the sampler: its first LTX-2 Reference Video with fill or "
                    "outpaint is what is kept.",
                ),
                *inputs.widgets(ClipSettings, "fps"),
                *inputs.widgets(Blending, "radius"),
            ],
            outputs={"images": io.Image},
        )

    @classmethod
    def execute(cls, images: Tensor, conditions: Chain, fps: float, radius: int) -> io.NodeOutput:
        return io.NodeOutput(torch.cat([*Blending(radius).frames([images[..., :3]], conditions, exact_fps(fps))]))
