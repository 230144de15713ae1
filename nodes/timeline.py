"""What happens when? A clip as one strip of time, drawn in the browser (``js/timeline.js``) and kept as JSON."""

from dataclasses import replace

from comfy_api.latest import io

from ..ltx2_core.conditioning import Timeline
from ..ltx2_core.disk_cache import Stamp, stamps
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.sampling.windows import Windowing
from ..ltx2_core.settings import PromptSettings, place_timeline
from . import host, inputs
from .engine import GemmaLike, HostEngine, LoadedModel
from .text import encode_prompts
from .values import Chain, ConditionsType, GemmaType, LongClipPlan, WindowsType

EXAMPLE = '{"seconds": 5, "fps": 24, "prompts": [{"at": 0, "text": "a red ball bounces twice on the left"}]}'


class TimelineNode(io.ComfyNode):
    """Prompts, pictures, a sound, references, characters, and what is made anew, each at its second."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVTimeline",
            "text/Timeline",
            inputs=[
                inputs.model("The LTX-2 model that the clip is for."),
                inputs.socket(GemmaType, "gemma", "The text encoder, from LTX-2 Load Gemma."),
                io.String.Input(
                    "timeline",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip="The strip as JSON. In the browser it is drawn: add, drag and snap there; files come from "
                    "ComfyUI's input folder.",
                ),
                *inputs.widgets(PromptSettings, "negative"),
                inputs.windows("From LTX-2 Long Video, for a clip of several windows.", optional=True),
                inputs.conditions(),
                inputs.plan(),
            ],
            outputs={
                "positive": io.Conditioning,
                "negative": io.Conditioning,
                "conditions": ConditionsType,
                "windows": WindowsType,
                "seconds": io.Float,
                "fps": io.Float,
            },
            shows=True,
        )

    @classmethod
    def fingerprint_inputs(cls, timeline: str | None = None, **others: object) -> list[Stamp]:
        return stamps([host.input_file(name) for name in (Timeline.parse(timeline).files if timeline else ())])

    @classmethod
    def execute(
        cls, model: LoadedModel, gemma: GemmaLike, timeline: str, negative: str = "",
        windows: LongClipPlan | None = None, conditions: Chain | None = None, plan: Plan | None = None
    ) -> io.NodeOutput:  # fmt: skip
        strip = Timeline.parse(timeline)
        placed, told = place_timeline(strip, host.input_file, model.loras, model.models.version)
        engine = HostEngine(model, plan, gemma=gemma)
        positive, *later, away = encode_prompts(engine, [each.text for each in strip.script], negative)
        if later:
            begun = windows or LongClipPlan(Windowing(), resume=True)
            times = [float(each.at) for each in strip.script[1:]]
            windows = replace(begun, segments=(*begun.segments, *zip(times, later)))
        host.show_text(cls.hidden.unique_id, "\n".join((strip.describe(), *told)))
        given = (*(conditions or ()), *placed, *strip.changes())
        return io.NodeOutput(positive, away, given, windows, float(strip.seconds), float(strip.fps))
