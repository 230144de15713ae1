"""Shipped workflows that make more of a clip: pixels, frames, or light."""

from pack.drawing import Graph
from pack.links import ONLY_NEWEST
from pack.shipped.parts import BALLROOM, OPENS, RED, Usual, film, node, own_clip, refiner, second_stage


def two_stage_1080p() -> Graph:
    graph = Graph(
        "two_stage_1080p",
        "Two stages: small first, then large",
        OPENS + "The sampler makes a small clip; *LTX-2 Two Stages* enlarges its latent twice and refines it, as the "
        "recipe of the model says. " + BALLROOM + "**Real clips**: choose the model and write a prompt. Upscaler and "
        "distilled LoRA are found by their official names. For 1920 x 1088 choose *size* **by hand**, 960 x 544.\n\n"
        "The node says in how many tiles it refined: as few as fit the card.",
        files=("upscalers", "distilled_loras"),
        note_in=(3, 2),
    )
    usual = Usual(graph, RED)
    upscaler, lora = second_stage(usual)
    usual.finish(models=(upscaler, lora))
    sampler = usual.sampled(title="First stage")
    large = node(
        "LTX2AVTwoStage",
        model=usual.model, positive=usual.contexts["positive"], negative=usual.contexts["negative"],
        latent=sampler["av_latent"], upscaler=upscaler["upscaler"], refine_model=lora["model"], seed=7,
    )  # fmt: skip
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Sampling", sampler)
    graph.put(3, "Second stage", large)
    graph.put(4, "Result", *usual.decoded(large["av_latent"]))
    return graph


def raise_frame_rate() -> Graph:
    graph = Graph(
        "raise_frame_rate",
        "More frames per second, with LTX-2.5 (DFR)",
        OPENS + "It knows no keyframes: two nodes are bypassed. **With LTX-2.5**: choose its transformer and temporal "
        "upscaler, switch both on (Ctrl + B), and get 48 frames per second, 96 with *rounds* 2.",
        files=(ONLY_NEWEST, "upscalers", "temporal", "distilled_loras"),
        note_in=(4, 1),
    )
    usual = Usual(graph, RED)
    upscaler, lora = second_stage(usual)
    temporal = node("LTX2AVLoadUpscaler", "Temporal upscaler", upscaler="as the model")
    keyframes = node("LTX2AVGeneratedKeyframes", bypassed=True, count=0)
    given = {"conditions": keyframes["conditions"]}
    usual.finish(models=(upscaler, temporal, lora))
    sampler = usual.sampled(title="First stage", **given)
    large = node(
        "LTX2AVTwoStage",
        model=usual.model, positive=usual.contexts["positive"], negative=usual.contexts["negative"],
        latent=sampler["av_latent"], upscaler=upscaler["upscaler"], refine_model=lora["model"], seed=7,
        keep_keyframes=True, **given,
    )  # fmt: skip
    faster = node(
        "LTX2AVRaiseFrameRate", bypassed=True,
        model=lora["model"], positive=usual.contexts["positive"], latent=large["av_latent"],
        upscaler=temporal["upscaler"], rounds=1, seed=7, **given,
    )  # fmt: skip
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Sampling", keyframes, sampler)
    graph.put(3, "Second stage", large, faster)
    graph.put(4, "Result", *usual.decoded(faster["av_latent"]))
    return graph


def hdr_video() -> Graph:
    graph = Graph(
        "hdr_video",
        "HDR video and EXR files, with LTX-2.5",
        OPENS + "It knows no HDR, so *LTX-2 Save HDR* is bypassed, and an ordinary video is saved.\n\n"
        "**With LTX-2.5**, or an HDR IC-LoRA for 2.3: choose the model, set *hdr* in *LTX-2 Video VAE Decode*, and "
        "switch *LTX-2 Save HDR* on and *Save Video* off (Ctrl + B): frames are linear light then. It writes an HLG "
        "video of 10 bit, or half-float EXR files for grading with the sound beside them. *LTX-2 Load HDR* reads light "
        "to begin with.",
        files=(ONLY_NEWEST,),
    )
    usual = Usual(graph, RED)
    usual.finish()
    sampler = usual.sampled()
    decode = node("LTX2AVVideoDecode", model=usual.model, latent=sampler["av_latent"], hdr=False)
    mel = node("LTX2AVAudioDecode", model=usual.model, latent=sampler["av_latent"])
    vocoder = node("LTX2AVVocoder", model=usual.model, mel=mel["mel"])
    shown = {"images": decode["images"], "audio": vocoder["audio"], "fps": usual.empty["fps"]}
    light = node("LTX2AVSaveHDR", bypassed=True, **shown)
    video = node("CreateVideo", **shown)
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Sampling", sampler)
    graph.put(3, "Result", decode, mel, vocoder, light)
    graph.put(4, "Result", video, node("SaveVideo", video=video["VIDEO"], filename_prefix="video/LTX-2"))
    return graph


def refine_4k() -> Graph:
    graph = Graph(
        "refine_4k",
        "Refine in tiles, up to 4K",
        OPENS + "The parts of the second stage are nodes of their own here: *LTX-2 Latent Upscaler* enlarges the "
        "latent, *LTX-2 Tiled Refiner* puts detail into it, in **2 x 2 tiles** that are made together, step by step, "
        "so that they cannot drift apart. The node says how much of their seams is left. " + BALLROOM
        + "**For 3840 x 2176**: size **by hand**, 1920 x 1088. *columns*, *rows* and *intervals* at **0** take as few "
        "tiles as fit the card: 20 seconds of 4K fit 8 GB so. *positions* **local** is for pictures wider than 2048 "
        "pixels, if absolute ones repeat themselves.",
        files=("upscalers", "distilled_loras"),
    )  # fmt: skip
    usual = Usual(graph, "a blue ball bounces twice on the right")
    upscaler, lora = second_stage(usual)
    usual.finish(models=(upscaler,))
    sampler = usual.sampled(title="First stage", seed=11)
    larger = node("LTX2AVUpscale", model=usual.model, latent=sampler["av_latent"], upscaler=upscaler["upscaler"])
    refined = refiner(usual, lora, larger, columns=2, rows=2, intervals=1, overlap=64)
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Sampling", sampler)
    graph.put(3, "Second stage", larger, refined)
    graph.put(4, "Result", *usual.decoded(refined["av_latent"]))
    graph.put(4, "Second stage", lora)
    return graph


def upscale_my_video() -> Graph:
    graph = Graph(
        "upscale_my_video",
        "Upscale a video of your own",
        OPENS + "A video becomes a latent, which is enlarged and refined; **its own sound** is held while the picture "
        "is refined, and goes into the new video untouched. " + BALLROOM
        + "**Your own video**: choose it in *Load Video*, and half of the size that you want in *width* and *height* "
        "of *LTX-2 Encode Clip*. Describe in the prompt what it shows. **noise_scale** is the main choice: **0.3** "
        "sharpens, **0.6** invents texture, 0.9 redraws; 0 is the recipe of the model.",
        files=("upscalers", "distilled_loras"),
        note_in=(1, 1),
    )  # fmt: skip
    usual = Usual(graph, RED)
    upscaler, lora = second_stage(usual)
    usual.finish(models=(upscaler, lora))
    seen = film()
    encoded = own_clip(usual, seen)
    larger = node("LTX2AVUpscale", model=usual.model, latent=encoded["av_latent"], upscaler=upscaler["upscaler"])
    refined = refiner(usual, lora, larger)
    parts = node("GetVideoComponents", video=seen["VIDEO"])
    graph.put(2, "Given", seen, encoded, parts)
    graph.put(3, "Second stage", larger, refined)
    graph.put(4, "Result", *usual.decoded(refined["av_latent"], audio=parts["audio"]))
    return graph
