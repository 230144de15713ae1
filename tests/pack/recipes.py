"""Runs inside ComfyUI's own Python: what the shipped workflows would do with models of official names.

In the folder are ``prompts.json`` (prompts by workflow), and tiny models under official names where ComfyUI looks for
models. Nothing is sampled. Prints, by model and workflow, what each sampler, refiner and text encoder was asked for.
"""

import json
from types import SimpleNamespace

from inside import PACK, folder, part

# The line above makes the host importable.
# isort: split
import torch
from comfy_api.latest import InputImpl

torch.set_num_threads(1)
nodes, sample, refine = part("nodes"), part("ltx2_core.pipeline.sample"), part("ltx2_core.pipeline.refine")
text, upscale = part("nodes.text"), part("ltx2_core.pipeline.upscale")
graph = part("ltx2_core.pipeline.graph.stages")
NODES = {node.define_schema().node_id: nodes.guarded(node, nodes.KINDS) for node in nodes.NODES}
for each in NODES.values():
    each.hidden = SimpleNamespace(unique_id=None)

part("nodes.host").place_examples()  # which a timeline reads by itself

EXAMPLES = f"{PACK}/workflows/examples"
PICTURE = torch.zeros(1, 96, 96, 3)
DOUBLES = {
    "LTX2AVThinkingTokens": lambda model, positive, negative: (positive, negative),
    "PrimitiveInt": lambda value: (value,),
    "LoadImage": lambda image: (PICTURE, PICTURE[..., 0]),
    "LoadImageMask": lambda image, channel: (torch.ones(1, 96, 96),),
    "RepeatImageBatch": lambda image, amount: (image.repeat(amount, 1, 1, 1),),
    "LoadAudio": lambda audio: ({"waveform": torch.zeros(1, 2, 22050), "sample_rate": 16000},),
    "LoadVideo": lambda file: (InputImpl.VideoFromFile(f"{EXAMPLES}/{file}"),),
    "GetImageSize": lambda image: (image.shape[2], image.shape[1], image.shape[0]),
    "GetVideoComponents": lambda video: (
        (parts := video.get_components()).images, parts.audio, float(parts.frame_rate),
    ),
}  # fmt: skip

asked: list[dict] = []


def guidance_of(stream) -> list:
    rows = getattr(stream, "rows", [stream])
    return [[row.text_scale, row.cross_modal_scale, row.stg_scale, row.rescale] for row in rows]


def remember(stage, what: str, content, sampling) -> None:
    video = content.video
    asked.append({
        "node": what,
        "sigmas": list(sampling.sigmas),
        "sampler": sampling.settings.sampler,
        "video": guidance_of(sampling.guidance.video),
        "audio": guidance_of(sampling.guidance.audio),
        "size": None if video is None else list(video.shape[2:]),
    })  # fmt: skip


def sampled(stage, engine, content, *rest, **more):
    remember(stage, "sampler", content, stage.sampling)
    return content


def refined(stage, engine, content, *rest, **more):
    remember(stage, "refiner", content, stage.sampling)
    return content


def enlarged(stage, engine, content, fps):
    video = content.video.repeat_interleave(2, -1).repeat_interleave(2, -2)
    return type(content)(video, content.audio), fps


def encoded(engine, prompts, negative, keep):
    asked.append({"node": "text", "negative": negative})
    return [torch.zeros(1, 1024, 64) for _ in (*prompts, negative)]


sample.Sample.run, refine.Refine.run, upscale.Upscale.run = sampled, refined, enlarged
text.cached_features = encoded
encoders = part("ltx2_core.pipeline.encode_conditions").EngineEncoders
encoders.video = lambda self, pixels, size: torch.zeros(1, 128, (size[0] - 1) // 8 + 1, size[1] // 32, size[2] // 32)
part("nodes.engine").HostEngine.fit = lambda self, stage: stage
graph.DecodeVideo.warning = lambda *rest: ""
refine.Refine.tiles = part("ltx2_core.sampling").Tiles((1, 1, 1))
refine.Refine.describe = lambda stage, result: []
graph.script_of = lambda *rest: SimpleNamespace(
    negative=None, all_contexts=[], check_batch=lambda latent: None, unread=lambda windows, transition: []
)
sample.Sample.window_cache = lambda *rest: None


def run(prompt: dict) -> list[dict]:
    """Execute what lies before the decoders; return what was asked for."""
    asked.clear()
    done: dict[str, tuple] = {}

    def result(key: str) -> tuple:
        if key not in done:
            kind, given = prompt[key]["class_type"], prompt[key]["inputs"]
            values = {
                name: result(value[0])[value[1]] if isinstance(value, list) else value for name, value in given.items()
            }
            done[key] = DOUBLES[kind](**values) if kind in DOUBLES else NODES[kind].execute(**values).args
        return done[key]

    for key, each in prompt.items():
        if each["class_type"] in ("LTX2AVSample", "LTX2AVRefine", "LTX2AVTwoStage"):
            result(key)
    return list(asked)


with torch.inference_mode():
    prompts = json.loads((folder / "prompts.json").read_text())
    print(json.dumps({model: {name: run(each) for name, each in group.items()} for model, group in prompts.items()}))
