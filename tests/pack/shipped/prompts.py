"""Shipped workflows that make a clip of a prompt alone."""

from pack.drawing import Graph
from pack.shipped.parts import OPENS, RED, Usual, node


def text_to_video() -> Graph:
    graph = Graph(
        "text_to_video",
        "Text to video with sound",
        OPENS + "It knows bouncing balls and nothing else, such as *a green ball bounces three times on the right*.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt. Gemma, size, length, steps, scales "
        "and the negative prompt follow the model.\n\n"
        "**Your own settings**: *size*, *megapixels* and *seconds* in *LTX-2 Empty AV Latent*; in the sampler set "
        "*settings* to **these widgets**, and its sliders count. ComfyUI's *App* mode (above the canvas) hides the "
        "graph, and shows what one chooses.",
    )
    usual = Usual(graph, RED)
    usual.finish()
    sampler = usual.sampled()
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Sampling", sampler)
    graph.put(3, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


def text_to_video_distilled() -> Graph:
    graph = Graph(
        "text_to_video_distilled",
        "Text to video, distilled: eight steps",
        OPENS + "It is not distilled; with a **distilled** checkpoint the same graph takes 8 steps of one pass each, "
        "with every scale at 1.\n\n"
        "A negative prompt has no effect at scale 1. *LTX-2 Guidance* applies it inside the attention instead (**nag "
        "scale** 3), at hardly any cost: write one, then switch the node on (Ctrl + B).",
    )
    usual = Usual(graph, "a yellow ball bounces twice on the right")
    guidance = node(
        "LTX2AVGuidance", "Negative prompt without CFG", bypassed=True,
        model=usual.model, stream="video", text_scale=1.0, cross_modal_scale=1.0, nag_scale=3.0,
    )  # fmt: skip
    usual.finish()
    sampler = usual.sampled(guidance=guidance["guidance"])
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Sampling", guidance)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


def text_to_video_guided() -> Graph:
    graph = Graph(
        "text_to_video_guided",
        "Guidance for each stream, and a memory plan",
        OPENS + "\n\nThe first *LTX-2 Guidance* treats picture and sound alike, with a high **cross-modal CFG**, so "
        "that impacts and their sounds meet. The second one takes over for the **picture** in the later steps (*up to "
        "sigma* 0.7) with milder scales, which leaves textures natural. **heun** looks twice per step.\n\n"
        "*LTX-2 Memory Plan* says before the run what fits your card, what will be streamed and how long it takes; set "
        "*max_vram* or *max_ram*, and all nodes behind it keep to that.\n\n"
        "**Real clips** of a dev model: *stg_scale* 1 and *rescale* 0.7 in both (advanced inputs), 30 *steps*. "
        "Distilled models take no guidance: bypass both, and set *settings* to **auto**.",
    )
    usual = Usual(graph, RED)
    both = node(
        "LTX2AVGuidance", "Both streams, from the first step",
        model=usual.model, stream="both", text_scale=3.0, cross_modal_scale=5.0, stg_scale=0.0, rescale=0.0,
    )  # fmt: skip
    milder = node(
        "LTX2AVGuidance", "Picture, later steps: milder",
        model=usual.model, guidance=both["guidance"], stream="video", text_scale=1.5, cross_modal_scale=3.0,
        up_to_sigma=0.7, stg_scale=0.0, rescale=0.0,
    )  # fmt: skip
    plan = node(
        "LTX2AVPlan",
        model=usual.model, latent=usual.empty["av_latent"], gemma=usual.gemma["gemma"], guidance=milder["guidance"],
    )  # fmt: skip
    usual.text.inputs["plan"] = plan["plan"]
    usual.finish()
    sampler = usual.sampled(
        guidance=milder["guidance"], plan=plan["plan"], settings="these widgets", steps=20, sampler="heun"
    )
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Sampling", both, milder)
    graph.put(2, "Model", plan)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"], plan=plan["plan"]))
    return graph


def text_to_audio() -> Graph:
    graph = Graph(
        "text_to_audio",
        "Text to audio",
        OPENS + "It makes the sound of a bouncing ball without its picture: *LTX-2 Empty AV Latent* is set to **sound "
        "only**, so no picture is made at all, which is many times faster.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model*, write a prompt, and a length in *seconds*.",
    )
    usual = Usual(graph, RED, streams="sound only")
    usual.finish()
    sampler = usual.sampled()
    mel = node("LTX2AVAudioDecode", model=usual.model, latent=sampler["av_latent"])
    vocoder = node("LTX2AVVocoder", model=usual.model, mel=mel["mel"])
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Sampling", sampler)
    # ComfyUI 0.33 calls it deprecated in its name; what is to take its place is not yet in 0.20.
    saver = node("SaveAudio", "Save Audio", audio=vocoder["audio"], filename_prefix="audio/LTX-2")
    graph.put(3, "Result", mel, vocoder, saver)
    return graph


def several_servers() -> Graph:
    graph = Graph(
        "several_servers",
        "Clips on several servers",
        "Press **Run** for one clip by the *miniature*, here. With the pack **ComfyUI-Distributed** other servers make "
        "more at the same time, each with a seed of its own. It is not needed to open this; its two nodes go where the "
        "wires are laid for them:\n\n"
        "1. **Distributed Seed** takes the place of *Seed*: wire it to *seed* of the sampler.\n"
        "2. **Distributed Collector** goes between *LTX-2 Decode* and *Create Video*: *images* and *audio* pass it.\n\n"
        "Switch its workers on and run. All clips come back as one video, one after the other, each with its sound; "
        "*Image* and *Audio Batch Divider* part them. Every server needs this pack and the same models.",
    )
    usual = Usual(graph, RED)
    usual.finish()
    seed = node("PrimitiveInt", "Seed", value=7)
    sampler = usual.sampled(seed=seed["INT"])
    decode = node("LTX2AVDecode", model=usual.model, latent=sampler["av_latent"])
    video = node("CreateVideo", images=decode["images"], audio=decode["audio"], fps=usual.empty["fps"])
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Sampling", seed, sampler)
    graph.put(3, "Result", decode, video)
    graph.put(4, "Result", node("SaveVideo", video=video["VIDEO"], filename_prefix="video/LTX-2"))
    return graph
