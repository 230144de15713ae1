"""Runs inside ComfyUI's own Python: every input of every node gets what it does not expect.

Prints, as JSON, how many values were tried, and which of them ended in anything but a result or a sentence of ours.
"""

import json
from dataclasses import fields, is_dataclass
from fractions import Fraction
from types import SimpleNamespace

from inside import part

# The line above makes the host importable.
# isort: split
import torch
from comfy.nested_tensor import NestedTensor
from comfy_api.latest import InputImpl, Types

torch.set_num_threads(1)
nodes, errors = part("nodes"), part("ltx2_core.errors")
NODES = {node.define_schema().node_id: nodes.guarded(node, nodes.KINDS) for node in nodes.NODES}
for each in NODES.values():
    each.hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)

# What comes to the first block of a transformer comes to all: the others hand it on.
block = part("ltx2_core.transformer.block").Block
forward = block.forward
block.forward = lambda self, states, index, *rest: states if index else forward(self, states, index, *rest)


def run(name: str, **values):
    return NODES[name].execute(**values).args


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def sound(*shape: int, rate=16000, **more) -> dict:
    return {"waveform": noise(*shape) - 0.5, "sample_rate": rate, **more}


def video(frames: int = 9, audio=None, fps=Fraction(24)):
    return InputImpl.VideoFromComponents(
        Types.VideoComponents(images=noise(frames, 64, 64, 3), audio=audio, frame_rate=fps)
    )


def latent(pictures=1, sounds=1, size=(2, 2, 2), **more) -> dict:
    """A clip of nine frames; 0 of one stream is none of it, and -1 an empty one."""
    streams = []
    if pictures:
        streams.append(torch.full((max(pictures, 0), 128, *size), 0.5))
    if sounds:
        streams.append(torch.full((max(sounds, 0), 8, 9, 16), 0.5))
    return {"samples": NestedTensor(streams) if len(streams) == 2 else streams[0], "fps": Fraction(24), **more}


with torch.inference_mode():
    (model,) = run("LTX2AVLoadModel", checkpoint="miniature (built in)")
    (gemma,) = run("LTX2AVLoadGemma", text_encoder="miniature (built in)")
    (upscaler,) = run("LTX2AVLoadUpscaler", upscaler="miniature (built in)")
    positive, _ = run(
        "LTX2AVGemmaTextEncode", model=model, gemma=gemma, prompt="a ball", negative="", keep_encoded=False
    )
    connected, _ = run("LTX2AVThinkingTokens", positive=positive, negative=None, model=model)  # once, not in each try
    (mel,) = run("LTX2AVAudioDecode", model=model, latent=latent())
    (guidance,) = run("LTX2AVGuidance", model=model, stream="both", text_scale=1.0, cross_modal_scale=1.0)
    (conditions,) = run("LTX2AVImage", image=noise(1, 64, 64, 3), frame=0, strength=1.0)
    (reference,) = run("LTX2AVReferenceVideo", images=noise(9, 64, 64, 3), downscale=1, temporal_scale=1, strength=1.0,
                       outpaint="left", margin=0.5)  # fmt: skip
    (windows,) = run("LTX2AVLongVideo", window=121, overlap=24, drift_control=0.0)
    plan, _ = run("LTX2AVPlan", model=model, latent=latent(), max_vram=0.0, max_ram=0.0)

text, extras = positive[0]
GOOD = {
    "LTX2AV_MODEL": model, "LTX2AV_GEMMA": gemma, "LATENT_UPSCALE_MODEL": upscaler, "LTX2AV_MEL": mel,
    "LTX2AV_GUIDANCE": guidance, "LTX2AV_CONDITIONS": conditions, "LTX2AV_WINDOWS": windows, "LTX2AV_PLAN": plan,
    "IMAGE": noise(9, 64, 64, 3), "MASK": torch.ones(1, 64, 64), "AUDIO": sound(1, 2, 16000), "VIDEO": video(),
    "LATENT": latent(), "CONDITIONING": connected, "SIGMAS": torch.tensor([1.0, 0.0]),
}  # fmt: skip

ANY = [None, "text", 5, b"bytes", {}, [], (), ("text",), object(), float("nan"), -(10**9), 10**400]
BAD = {
    "IMAGE": [
        noise(0, 8, 8, 3), noise(1, 0, 0, 3), noise(8, 8, 3), noise(1, 8, 8, 1), noise(1, 8, 8, 2), noise(9, 8, 8, 4),
        noise(3, 95, 97, 3), noise(9, 95, 97, 3), noise(1, 1, 1, 3), noise(1, 8, 8, 3).byte(), noise(1, 1, 8, 8, 3),
    ],
    "MASK": [
        noise(0, 8, 8), noise(1, 0, 0), noise(8, 8), noise(1, 1, 8, 8), noise(3, 8, 8), noise(9, 1, 1), noise(8),
        torch.zeros(1, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool), noise(2, 3, 8, 8),
    ],
    "AUDIO": [
        {"waveform": None, "sample_rate": 16000}, {"waveform": noise(1, 2, 9)}, sound(2, 900), sound(0, 2, 900),
        sound(1, 0, 900), sound(1, 2, 0), sound(1, 2, 900, rate=0), sound(1, 2, 900, rate=None), sound(1, 6, 9000),
        sound(2, 2, 9000), sound(1, 1, 1), sound(1, 2, 900, rate="48000"), sound(1, 2, 900, rate=44100.0),
        {"waveform": torch.ones(1, 2, 900, dtype=torch.int16), "sample_rate": 16000},
    ],
    "VIDEO": [
        video(0), video(1), video(9, fps=Fraction(0)), video(9, audio=sound(1, 2, 0)), video(9, audio=sound(0, 2, 9)),
        video(9, audio=sound(1, 2, 9000)), video(9, audio={}),
    ],
    "LATENT": [
        {"samples": None}, {"samples": [noise(1, 2)]}, {"samples": noise(1, 4, 8, 8)}, {"samples": noise(1)},
        latent(1, 0), latent(0, 1), latent(2, 1), latent(1, 2), latent(2, 3), latent(2, 2), latent(-1, -1),
        latent(1, -1), latent(-1, 0), latent(0, -1), latent(size=(0, 2, 2)), latent(size=(1, 1, 1)),
        latent(size=(2, 3, 1)), latent(fps="x"), latent(fps=[1]), latent(fps=0), latent(fps=float("nan")),
        latent(noise_mask="x"), latent(noise_mask=noise(0, 8, 8)), latent(noise_mask=noise(8)),
        latent(noise_mask=noise(3, 8, 8)), latent(noise_mask=noise(1, 1, 8, 8)), latent(noise_mask=noise(5, 1, 8, 8)),
        latent(noise_mask=NestedTensor((noise(1, 1, 1, 1, 1), noise(1, 1, 1, 1)))), 
        latent(1, 0, noise_mask=noise(8, 8)),
        latent(0, 1, noise_mask=noise(1, 9)), latent(0, 1, noise_mask=noise(1, 1, 8, 8)),
        latent(noise_mask=torch.zeros(1, 8, 8)),
    ],
    "CONDITIONING": [
        [[text]], [[text, None]], [[text[0], extras]], [[text[:0], extras]], [[text[:, :0], extras]], [[None, extras]],
        [[text[..., :-1], extras]], [[text.expand(2, -1, -1), extras]], [[text.expand(3, -1, -1), extras]],
        [[text[:, :100], extras]], [[text, {}]], [[text, extras], [text, extras]], [text, extras],
        [[text, extras | {"frame_rate": "x"}]], [[text, extras | {"frame_rate": 0}]],
    ],
    "SIGMAS": [
        torch.tensor([]), torch.ones(2, 2), torch.ones(1), torch.tensor([float("nan"), 0]), torch.tensor([0.0, 1.0]),
        torch.tensor([1, 0]), torch.tensor([2.0, 0.0]), [1.0, 0.0], torch.tensor(1.0),
    ],
    "STRING": ["", "\ud83d", "x" * 10, "0\uff0c-1", "-1-2", "1:2:3", ","],
    "INT": [0, 1, -1, 33.5, 2**64 - 1, True],
    "FLOAT": [0, 1, -1.5, 1e300, True],
    "COMBO": ["", "..", "../../x.safetensors", "sub\\x.safetensors", "none"],
    "BOOLEAN": [0, 1, "yes"],
    "LTX2AV_MEL": [type(mel)(mel.mel[:0], mel.clip), type(mel)(mel.mel[:, :, :0], mel.clip), type(mel)(mel.mel, None)],
}  # fmt: skip

ONE_OF = {"images": "video", "video": "images"}  # nodes that need neither take just one of these
SETTINGS = {
    # With noise levels it goes by its widgets; without, by the recipe, which needs a negative prompt.
    "LTX2AVSample": {"sigmas": GOOD["SIGMAS"], "text_scale": 1.0, "cross_modal_scale": 1.0, "stg_scale": 0.0},
    "LTX2AVKeyframes": {"frames": ", ".join("012345678"), "strengths": "1"},
    "LTX2AVGemmaTextEncode": {"keep_encoded": False},
    "LTX2AVThinkingTokens": {"positive": positive, "negative": positive},
    "LTX2AVEnhancePrompt": {"edited": "a ball"},  # the miniature's Gemma does not chat
    "LTX2AVCharacter": {"pictures": GOOD["IMAGE"][:1]},
    "LTX2AVRetake": {"end": 0.2},
    "LTX2AVRefine": {"sigmas": torch.tensor([0.5, 0.0]), "columns": 1, "rows": 1, "intervals": 1},
    "LTX2AVTwoStage": {"columns": 1, "rows": 1, "intervals": 1},
    "LTX2AVExtend": {"seconds": 0.1},
    "LTX2AVBlend": {"conditions": reference},
    "LTX2AVEmptyLatent": {"width": 64, "height": 64, "frames": 9},
    "LTX2AVMotionTracks": {"width": 64, "height": 64, "frames": 9},
}


def good_values(name: str, inputs: list) -> dict:
    values = {}
    for each in inputs:
        kind = each.get_io_type()
        if kind in GOOD:
            if not each.optional:
                values[each.id] = GOOD[kind]
        elif not each.optional:
            values[each.id] = next(iter(each.options), "") if kind == "COMBO" else each.default
    if {"images", "video"} <= {each.id for each in inputs}:
        values["images"] = GOOD["IMAGE"]
    known = {each.id for each in inputs}
    return values | {key: value for key, value in SETTINGS.get(name, {}).items() if key in known}


def content(value: object) -> object:
    """Return what is equal for values that are equal in all bytes; a value of an unknown kind equals nothing else."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, NestedTensor):
        return tuple(map(content, value.unbind()))
    if isinstance(value, dict):
        return tuple((key, content(each)) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(content, value))
    if is_dataclass(value):
        return type(value), tuple(content(getattr(value, field.name)) for field in fields(value))
    return repr(value) if isinstance(value, (str, int, float, Fraction, type(None))) else object()


sampled = set()  # what the sampler has used before


def used(outputs: tuple, schema) -> None:
    """Let the sampler use what a node made, once if it is the same: there a wrong value would show at last."""
    for output, value in zip(schema.outputs, outputs):
        given = {"LTX2AV_CONDITIONS": "conditions", "LATENT": "latent", "LTX2AV_GUIDANCE": "guidance"}
        if (name := given.get(output.get_io_type())) is None or value is None:
            continue
        values = {"model": model, "positive": connected, "negative": connected, "latent": latent(), "seed": 0}
        if name == "latent" and "latents" not in NODES[schema.node_id].__module__:
            continue  # it is sampled already
        if (key := (name, content(value))) not in sampled:
            sampled.add(key)
            run("LTX2AVSample", **values | SETTINGS["LTX2AVSample"] | {name: value})


def described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, dict):
        return str({key: described(each) for key, each in value.items()})
    if isinstance(value, NestedTensor):
        return f"nested {[tuple(each.shape) for each in value.unbind()]}"
    return repr(value)[:60]


def trial(schema, key: str | None, value: object) -> str:
    """What went wrong with a node, if anything."""
    values = good_values(schema.node_id, schema.inputs)
    if key is not None:
        if (other := ONE_OF.get(key)) in {each.id for each in schema.inputs if each.optional}:
            values.pop(other, None)
        values[key] = value
    try:
        used(run(schema.node_id, **values), schema)
    except errors.LTX2Error as error:
        return "" if key else str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


# The only upscaler that is built in enlarges space, the model that is built in marks no keyframes, and there is neither
# an EXR nor a certificate nor a video that is a file, nor a card.
REFUSING = ("LTX2AVUpscaleTime", "LTX2AVGeneratedKeyframes", "LTX2AVRaiseFrameRate", "LTX2AVLoadHDR")
REFUSING += ("LTX2AVSignClip", "LTX2AVCheckClip", "LTX2AVSeveralCards")
wrong, tried = [], 0
with torch.inference_mode():
    for name, node in NODES.items():
        schema = node.define_schema()  # which takes as long as a try
        if (fault := trial(schema, None, None)) and name not in REFUSING:
            wrong.append(f"{name} with good values: {fault}")
        for each in schema.inputs:
            if name == "LTX2AVLoraStack" and each.id not in ("model", "lora_1", "strength_1", "lora_2", "strength_2"):
                continue  # all rows are alike
            for value in [*ANY, *BAD.get(each.get_io_type(), [])]:
                tried += 1
                if fault := trial(schema, each.id, value):
                    wrong.append(f"{name}.{each.id} = {described(value)}: {fault}")
print(json.dumps({"tried": tried, "wrong": wrong}))
