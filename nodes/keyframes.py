"""Which single frames are generated beside a clip, and what becomes of them?"""

from comfy_api.latest import io

from ..ltx2_core.conditioning.conditions import GeneratedKeyframes
from . import inputs
from .values import Chain


class GeneratedKeyframesNode(io.ComfyNode):
    """Frames that are generated one by one beside the clip."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVGeneratedKeyframes",
            "condition/Generated Keyframes",
            aliases=["keyframe slots", "generated keyframes", "dfr", "sharper", "motion", "ltx 2.5"],
            inputs=[*inputs.widgets(GeneratedKeyframes, "count", "frames"), inputs.conditions()],
            outputs=[inputs.conditions_output("The keyframes and all that was given before")],
        )

    @classmethod
    def execute(cls, count: int, frames: str = "", conditions: Chain | None = None) -> io.NodeOutput:
        return io.NodeOutput((*(conditions or ()), GeneratedKeyframes(count, frames)))
