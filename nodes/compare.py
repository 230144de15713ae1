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
from .inputs import sockets, widgets
from .node import Node
from .values import Chain, Video, audio_of_video, video_source


class CompareClips(Node):
    """Two videos to one."""

    id = "LTX2AVCompareClips"
    title = "decode/Compare Clips"
    inputs = [sockets("first", "second"), widgets(Comparison, "layout", "wipe", "sound", "gain")]
    outputs = {"video": io.Video}

    @classmethod
    def execute(cls, first: Video, second: Video, **settings: Any) -> io.NodeOutput:
        how = Comparison(**settings)
        sources = video_source(None, first), video_source(None, second)
        fps = rate_of(sources[0]) or Fraction(ClipSettings.fps)
        heard = how.heard(audio_of_video(first), audio_of_video(second))
        audio = None if heard is None else {"waveform": heard.waveform[None], "sample_rate": heard.sample_rate}
        parts = Types.VideoComponents(images=torch.cat([*how.frames(*sources, fps)]), audio=audio, frame_rate=fps)
        return io.NodeOutput(InputImpl.VideoFromComponents(parts))


class BlendClip(Node):
    """Frames, and the reference of which they keep a part."""

    id = "LTX2AVBlend"
    title = "decode/Blend with Reference"
    inputs = [sockets("images", "conditions"), widgets(ClipSettings, "fps"), widgets(Blending, "radius")]
    outputs = {"images": io.Image}

    @classmethod
    def execute(cls, images: Tensor, conditions: Chain, fps: float, radius: int) -> io.NodeOutput:
        return io.NodeOutput(torch.cat([*Blending(radius).frames([images[..., :3]], conditions, exact_fps(fps))]))
