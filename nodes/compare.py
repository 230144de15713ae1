"""Two clips as one: which is better, and what is kept of one in the other?"""

from typing import Any

from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ..ltx2_core.conditioning.blend import Blending
from ..ltx2_core.conditioning.compare import Comparison
from ..ltx2_core.pipeline.graph.codec import blend_clip, compare_clips
from ..ltx2_core.settings import ClipSettings
from .inputs import optional, sockets, widgets
from .node import Node
from .values import Video, clip_of


class CompareClips(Node):
    """Two videos to one."""

    id = "LTX2AVCompareClips"
    title = "decode/Compare Clips"
    inputs = [sockets("first", "second"), widgets(Comparison, "layout", "wipe", "sound", "gain")]
    outputs = {"video": io.Video}

    @classmethod
    def execute(cls, first: Video, second: Video, **settings: Any) -> io.NodeOutput:
        compared = compare_clips(Comparison(**settings), clip_of(first), clip_of(second))
        return io.NodeOutput(InputImpl.VideoFromComponents(Types.VideoComponents(**compared)))


class BlendClip(Node):
    """A clip, and what it was made of, of which it keeps a part."""

    id = "LTX2AVBlend"
    title = "decode/Blend with Original"
    inputs = [
        sockets("images"),
        optional("audio", "video", "conditions"),
        widgets(ClipSettings, "fps"),
        widgets(Blending),
    ]
    outputs = {"images": io.Image, "audio": io.Audio}

    @classmethod
    def execute(
        cls, images: Tensor, fps: float, radius: int, video: Video | None = None, **given: Any
    ) -> io.NodeOutput:
        known = [*([] if video is None else [clip_of(video)]), *given.get("conditions", ())]
        return io.NodeOutput(*blend_clip(Blending(radius), known, images, given.get("audio"), fps))
