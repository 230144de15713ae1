"""How is a clip made that is longer than what the model makes at once?"""

from dataclasses import dataclass, replace

from comfy_api.latest import io

from ..ltx2_core.sampling.windows import Windowing
from .text import Conditioning
from .types import Windows


@dataclass(frozen=True)
class LongClip:
    """LTX2AV_WINDOWS: how a long clip is cut, and which prompt begins when."""

    windowing: Windowing
    resume: bool
    segments: tuple[tuple[float, Conditioning], ...] = ()  # seconds and prompts, beside the sampler's own, from 0 on


class LongVideo(io.ComfyNode):
    """Cuts a long clip into windows."""

    @classmethod
    def define_schema(cls):
        def frames(name: str, default: int, least: int, most: int, tooltip: str) -> io.Int.Input:
            return io.Int.Input(name, default=default, min=least, max=most, step=8, tooltip=tooltip)

        return io.Schema(
            node_id="LTX2AVLongVideo",
            display_name="LTX-2 Long Video",
            category="LTX-2/sampling",
            description="Lets the sampler make a long clip window by window, picture and sound together, with the "
            "memory of one window. Connect it to the sampler, and give the sampler a latent of the whole length.",
            search_aliases=["looping sampler", "context windows", "sliding window", "infinite", "minutes", "extend"],
            inputs=[
                frames(
                    "window",
                    121,
                    17,
                    2881,
                    "Frames that are made at once, 8 k + 1: as many as the model does well and the card has room for.",
                ),
                frames(
                    "overlap",
                    24,
                    8,
                    512,
                    "Frames that a window sees of the one before it. More keep motion and voices going, and take "
                    "longer.",
                ),
                io.Float.Input(
                    "drift_control",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Draws colours, contrast and loudness of every window to those of the first one. Raise it "
                    "if a long clip grows garish; too much hides changes that you want.",
                ),
                io.Float.Input(
                    "overlap_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="How firmly a window keeps the frames that it sees. Lower lets it repaint them a little, "
                    "and fade over.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Keeps finished windows on disk (at most 1 GB), so that a run that was cancelled or broke "
                    "off goes on where it was, also after a restart.",
                ),
            ],
            outputs=[
                Windows.Output(
                    display_name="windows", tooltip="For the sampler, or for LTX-2 Segment to change the prompt."
                )
            ],
        )

    @classmethod
    def execute(
        cls, window: int, overlap: int, drift_control: float, overlap_strength: float = 1.0, resume: bool = True
    ) -> io.NodeOutput:
        return io.NodeOutput(LongClip(Windowing(window, overlap, drift_control, overlap_strength), resume))


class SegmentNode(io.ComfyNode):
    """Another prompt from a moment on."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVSegment",
            display_name="LTX-2 Segment",
            category="LTX-2/sampling",
            description="Gives a long clip another prompt from a moment on. The sampler's own prompt holds before the "
            "first segment. Chain as many as you like.",
            search_aliases=["prompt schedule", "prompt travel", "multi prompt", "timeline", "scene", "story"],
            inputs=[
                Windows.Input("windows", tooltip="From LTX-2 Long Video, or from another segment."),
                io.Conditioning.Input("positive", tooltip="The encoded prompt of this segment."),
                io.Float.Input(
                    "start",
                    default=5.0,
                    min=0.0,
                    max=3600.0,
                    step=0.1,
                    round=0.01,
                    tooltip="When it begins, in seconds. A window has the prompt that holds in the middle of what is "
                    "new in it.",
                ),
            ],
            outputs=[Windows.Output(display_name="windows", tooltip="For the sampler, or for the next segment.")],
        )

    @classmethod
    def execute(cls, windows: LongClip, positive: Conditioning, start: float) -> io.NodeOutput:
        return io.NodeOutput(replace(windows, segments=(*windows.segments, (start, positive))))
