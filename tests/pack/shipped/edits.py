"""Shipped workflows that go on from a clip, change some of it, or make it of several parts."""

import json

from pack.drawing import Graph
from pack.shipped.parts import EXAMPLE, OPENS, RED, Usual, film, node, own_clip


def extend() -> Graph:
    graph = Graph(
        "extend",
        "Extend a video with its sound",
        OPENS + "*LTX-2 Extend* makes room for **two thirds of a second** more, and the sampler goes on where the "
        "video ended, in picture and sound. What there was stays as it was: *LTX-2 Blend with Original* puts the "
        "video's own pictures and sound back.\n\n"
        "**Your own video**: choose it in *Load Video*, and say in *seconds* how much longer it becomes. A large one "
        "becomes smaller, as *megapixels* of *LTX-2 Encode Clip* says. Where the whole is more than the model makes at "
        "once, connect *LTX-2 Long Video* to the sampler.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    usual = Usual(graph, RED)
    seen = film()
    encoded = own_clip(usual, seen, megapixels="as the model likes it")
    longer = node("LTX2AVExtend", latent=encoded["av_latent"], seconds=0.7)
    usual.finish()
    sampler = usual.sampled(longer["av_latent"], seed=35)
    decode, *rest = usual.blended(sampler["av_latent"], video=seen["VIDEO"])
    graph.put(2, "Given", seen, encoded, longer)
    graph.put(3, "Sampling", sampler)
    graph.put(3, "Result", decode)
    graph.put(4, "Result", *rest)
    return graph


def retake() -> Graph:
    graph = Graph(
        "retake",
        "Retake some seconds of a video",
        OPENS + "**0.5 to 1.0 s** of a video are made anew, and the rest is kept in picture and sound: *LTX-2 Blend "
        "with Original* puts the video's own back there.\n\n"
        "**Your own video**: choose it in *Load Video*, and the seconds in *LTX-2 Retake*. *streams* retakes the "
        "picture or the sound alone; the other one stays and is followed. A large video becomes smaller, as "
        "*megapixels* of *LTX-2 Encode Clip* says.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    usual = Usual(graph, RED)
    seen = film()
    encoded = own_clip(usual, seen, megapixels="as the model likes it")
    part = node("LTX2AVRetake", start=0.5, end=1.0)
    usual.finish()
    sampler = usual.sampled(encoded["av_latent"], conditions=part["conditions"], seed=31)
    decode, *rest = usual.blended(sampler["av_latent"], video=seen["VIDEO"], conditions=part["conditions"])
    graph.put(2, "Given", seen, encoded, part)
    graph.put(3, "Sampling", sampler)
    graph.put(3, "Result", decode)
    graph.put(4, "Result", *rest)
    return graph


def inpaint() -> Graph:
    graph = Graph(
        "inpaint",
        "Inpaint a region of a video",
        OPENS + "The **left two thirds** of a video are made anew, with a **green** ball; the rest of the picture and "
        "the sound are kept: *LTX-2 Blend with Original* puts the video's own back.\n\n"
        "**Your own video**: choose it in *Load Video*, and a picture of the region in *Load Image (as Mask)*: white "
        "is made anew, one mask for all frames or one for each. It counts in cells of 32 x 32 pixels; *feather* says "
        "how softly the change ends. A large video becomes smaller, as *megapixels* of *LTX-2 Encode Clip* says.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    usual = Usual(graph, "a green ball bounces twice on the left")
    seen = film()
    encoded = own_clip(usual, seen, megapixels="as the model likes it")
    mask = node("LoadImageMask", "Your region", image=f"{EXAMPLE}mask.png", channel="red")
    region = node("LTX2AVInpaint", mask=mask["MASK"])
    usual.finish()
    sampler = usual.sampled(encoded["av_latent"], conditions=region["conditions"], seed=26)
    decode, *rest = usual.blended(sampler["av_latent"], video=seen["VIDEO"], conditions=region["conditions"])
    graph.put(1, "Given", mask, region)
    graph.put(2, "Given", seen, encoded)
    graph.put(3, "Sampling", sampler)
    graph.put(3, "Result", decode)
    graph.put(4, "Result", *rest)
    return graph


def outpaint() -> Graph:
    graph = Graph(
        "outpaint",
        "Outpaint a video",
        OPENS + "The video is shown smaller inside of the clip, and the model paints **around** it; *LTX-2 Blend with "
        "Original* puts its own pixels back. **ic-motion** stands for the IC-LoRA for in- and outpainting: it paints "
        "an empty room, which stands still.\n\n"
        "**Your own**: choose a video in *Load Video* and that IC-LoRA, and describe the whole scene in the prompt. A "
        "clip of another shape, such as 1280 x 704 for a tall video, needs no *margin*. **To inpaint** instead, set "
        "*outpaint* to *off* and connect a mask to *fill*.",
        files=("ic_loras",),
    )
    usual = Usual(graph, "a green ball bounces three times on the right")
    seen = film("motion")
    lora = node("LTX2AVLoadICLora", model=usual.model, lora="built-in: ic-motion")
    reference = node(
        "LTX2AVReferenceVideo",
        video=seen["VIDEO"], downscale=lora["downscale"], temporal_scale=lora["temporal_scale"], outpaint="around",
        margin=0.25,
    )  # fmt: skip
    usual.finish(models=(lora,))
    sampler = usual.sampled(model=lora["model"], conditions=reference["conditions"])
    decode, *rest = usual.blended(sampler["av_latent"], conditions=reference["conditions"])
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", seen, reference)
    graph.put(3, "Sampling", sampler)
    graph.put(3, "Result", decode)
    graph.put(4, "Result", *rest)
    return graph


def long_video() -> Graph:
    graph = Graph(
        "long_video",
        "Long video with several prompts",
        OPENS + "It makes 97 frames (4 s) out of **five windows** of 33 frames that share 16, picture and sound "
        "together, with the memory of one window. From 2 s on another prompt holds.\n\n"
        "*LTX-2 Long Video* cuts the clip, *LTX-2 Segment* changes the prompt: chain as many as you like. Finished "
        "windows are kept on disk: a run that was cancelled goes on where it was. If a long clip grows garish, raise "
        "*drift_control*.\n\n"
        "**Real clips**: choose the model, the length in *seconds*, and 121 frames a window with an overlap of 24.",
    )
    usual = Usual(graph, RED, seconds=4.0)
    later = usual.encoded("a green ball bounces twice on the left", "Prompt from 2 s on")
    windows = node("LTX2AVLongVideo", window=33, overlap=16)
    segment = node("LTX2AVSegment", windows=windows["windows"], positive=later["positive"], start=2.0)
    usual.finish(prompts=(later,))
    sampler = usual.sampled(windows=segment["windows"], seed=2)
    graph.put(2, "Clip", usual.empty, windows, segment)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


STRIP = {
    "seconds": 4, "fps": 24,
    "prompts": [{"text": RED, "at": 0}, {"text": "a green ball bounces twice on the left", "at": 2}],
    "pictures": [{"file": f"{EXAMPLE}first.png", "at": 0, "strength": 1}],
}  # fmt: skip


def timeline() -> Graph:
    graph = Graph(
        "timeline",
        "A timeline of prompts and pictures",
        OPENS + "One strip says what happens when: a first picture, a red ball, and from 2 s on a green one. Drag its "
        "entries, add others, drop files on it: prompts, pictures, a sound, references, characters and retakes.\n\n"
        "*LTX-2 Long Video* is for clips that are longer than what the model makes at once. Length and rate of the "
        "strip are those of the clip.\n\n"
        "**Real clips**: choose the model, and 121 frames a window with an overlap of 24.",
    )
    usual = Usual(graph, RED)
    windows = node("LTX2AVLongVideo", window=33, overlap=16)
    strip = node(
        "LTX2AVTimeline",
        model=usual.model, gemma=usual.gemma["gemma"], timeline=json.dumps(STRIP, indent=1), negative="",
        windows=windows["windows"],
    )  # fmt: skip
    usual.text = strip
    usual.contexts.inputs |= {"positive": strip["positive"], "negative": strip["negative"]}
    usual.empty.inputs |= {"seconds": strip["seconds"], "fps": strip["fps"]}
    usual.finish()
    sampler = usual.sampled(windows=strip["windows"], conditions=strip["conditions"], seed=2)
    graph.put(2, "Clip", usual.empty, windows)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph
