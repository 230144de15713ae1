"""What happens when? A clip as one strip of time, drawn in the browser (``js/timeline.js``) and kept as JSON."""

from dataclasses import replace
from pathlib import Path

from comfy_api.latest import io

from ..ltx2_core.conditioning import Timeline
from ..ltx2_core.conditioning.kept import chained
from ..ltx2_core.conditioning.timeline import TimelineText
from ..ltx2_core.disk_cache import Stamp, stamps
from ..ltx2_core.pipeline.characters import place_timeline
from ..ltx2_core.pipeline.graph.latents import LongClipPlan
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.sampling.windows import Windowing
from ..ltx2_core.settings import PromptSettings
from . import host
from .engine import GemmaLike, HostEngine, LoadedModel
from .inputs import optional, sockets, widgets
from .node import Node
from .text import encode_prompts
from .values import Chain, ConditionsType, WindowsType


class TimelineNode(Node):
    """Prompts, pictures, a sound, references, characters, and what is made anew, each at its second."""

    id = "LTX2AVTimeline"
    title = "text/Timeline"
    inputs = [
        sockets("model", "gemma"),
        widgets(TimelineText),
        widgets(PromptSettings, "negative"),
        optional("windows", "conditions", "plan"),
    ]
    outputs = {
        "positive": io.Conditioning, "negative": io.Conditioning, "conditions": ConditionsType, "windows": WindowsType,
        "seconds": io.Float, "fps": io.Float,
    }  # fmt: skip
    shows = True

    @classmethod
    def fingerprint_inputs(cls, timeline: str | None = None, **others: object) -> list[Stamp]:
        if timeline is None:  # a link brings it, and not yet: any file may be in it
            return stamps([*filter(Path.is_file, Path(host.KEPT["input"]()).rglob("*"))])
        return stamps([host.input_file(name) for name in Timeline.parse(timeline).files])

    @classmethod
    def execute(
        cls, model: LoadedModel, gemma: GemmaLike, timeline: str, negative: str = "",
        windows: LongClipPlan | None = None, conditions: Chain | None = None, plan: Plan | None = None
    ) -> io.NodeOutput:  # fmt: skip
        strip = Timeline.parse(timeline)
        placed, told = place_timeline(strip, host.input_file, model.loras, model.models.version)
        given = chained(conditions or (), placed, strip.changes())
        engine = HostEngine(model, plan, gemma=gemma)
        positive, *later, away = encode_prompts(engine, [each.text for each in strip.script], negative)
        if later:
            begun = windows or LongClipPlan(Windowing(), resume=True)
            times = [float(each.at) for each in strip.script[1:]]
            windows = replace(begun, segments=(*begun.segments, *zip(times, later)))
        cls.show("\n".join((strip.describe(), *told)))
        return io.NodeOutput(positive, away, given, windows, float(strip.seconds), float(strip.fps))
