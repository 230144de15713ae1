"""Shipped workflows with LoRAs, and with references that a LoRA follows."""

import json

from pack.drawing import Graph
from pack.shipped.parts import OPENS, RED, Usual, film, node, picture, sound


def reference_voice() -> Graph:
    graph = Graph(
        "reference_voice",
        "A voice from a recording",
        OPENS + "The clip hears a sound from **before its beginning** and takes its voice over; *LTX-2 Image to Video* "
        "gives it a face. The miniature was not trained to take a voice over, and shows the way only.\n\n"
        "It needs a LoRA that was trained for it, such as an ID-LoRA: put *LTX-2 Load LoRA* between *LTX-2 Load Model* "
        "and the sampler.\n\n"
        "**Your own voice**: choose it in *Load Audio*, a few seconds are enough, and a face in *Load Image*.",
    )
    heard, shown = sound("Your voice"), picture("first", "Your picture")
    usual = Usual(graph, RED, picture=shown["IMAGE"])
    first = node("LTX2AVImage", image=shown["IMAGE"], frame=0, strength=1.0, compression=-1)
    voice = node("LTX2AVReferenceAudio", audio=heard["AUDIO"], conditions=first["conditions"])
    usual.finish()
    sampler = usual.sampled(conditions=voice["conditions"], seed=24)
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", heard, shown, first, voice)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


def character() -> Graph:
    graph = Graph(
        "character",
        "Keep a character",
        OPENS
        + "*LTX-2 Character* keeps somebody by a picture and a voice in **every window** of a long clip, and says "
        "which way it took. The miniature takes nothing over, and shows the way only.\n\n"
        "**Your own**: a picture on a plain background, and a few seconds of a voice. The voice needs an ID-LoRA; for "
        "2.3 the IC-LoRA *Ingredients* keeps a face. **Ask whoever it is.** *LTX-2 Sign Clip* (Ctrl + B) writes who "
        "made it into a file of its own.\n\n"
        "**Real clips**: choose the model, the length in *seconds*, and 121 frames a window with an overlap of 24.",
    )
    usual = Usual(graph, "a red ball bounces three times on the left", seconds=2.0)
    windows = node("LTX2AVLongVideo", window=33, overlap=16)
    shown, heard = picture("first", "Who is seen"), sound("Who is heard")
    who = node(
        "LTX2AVCharacter",
        model=usual.model, pictures=shown["IMAGE"], voice=heard["AUDIO"], way="auto", strength=0.5,
    )  # fmt: skip
    usual.finish()
    sampler = usual.sampled(windows=windows["windows"], conditions=who["conditions"])
    decode, save = usual.decoded(sampler["av_latent"])
    sign = node("LTX2AVSignClip", bypassed=True, video=decode["video"])
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", shown, heard, who)
    graph.put(3, "Sampling", windows, sampler)
    graph.put(4, "Result", decode, save, sign)
    return graph


def lora_camera() -> Graph:
    graph = Graph(
        "lora_camera",
        "LoRAs: camera and style",
        OPENS + "Two LoRAs were trained for it. **light-room** stands for a camera LoRA and makes the room light, "
        "whatever the prompt says. **golden-ball** makes the ball yellow; its **audio** and **video to audio** are at "
        "0, so the ball still sounds like the red one.\n\n"
        "**Your own LoRAs**: put them into *models/loras* and choose them here, with a real model. Both nodes say how "
        "much of their file fits the model. Another strength does not load the model again. Take the model for the "
        "prompts from behind the LoRAs only if one of them changes text layers (the report says *text*).",
        files=("loras",),
    )
    usual = Usual(graph, f"{RED}, dark background")
    camera = node("LTX2AVLoadLora", model=usual.model, lora="built-in: light-room", strength=1.0)
    style = node(
        "LTX2AVLoadLoraAdvanced",
        model=camera["model"], lora="built-in: golden-ball", audio=0.0, video_to_audio=0.0,
    )  # fmt: skip
    usual.finish()
    sampler = usual.sampled(model=style["model"])
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Model", camera, style)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


def ic_lora_control() -> Graph:
    graph = Graph(
        "ic_lora_control",
        "IC-LoRA: move like another video",
        OPENS + "The video shows a white ball in a dark room; **ic-motion** lets the ball of the prompt move as that "
        "one does. *LTX-2 Load IC-LoRA* reads from the file how large the reference shall be, and hands both numbers "
        "on.\n\n"
        "**Your own**: choose a video in *Load Video* (edges, depth or poses, as the IC-LoRA wants them), a model, and "
        "an official IC-LoRA from *models/loras*; distilled models are preferred.",
        files=("ic_loras",),
    )
    usual = Usual(graph, "a green ball bounces three times on the right")
    seen = film("motion", "Your reference")
    lora = node("LTX2AVLoadICLora", model=usual.model, lora="built-in: ic-motion")
    reference = node(
        "LTX2AVReferenceVideo",
        video=seen["VIDEO"], downscale=lora["downscale"], temporal_scale=lora["temporal_scale"],
    )  # fmt: skip
    usual.finish()
    sampler = usual.sampled(model=lora["model"], conditions=reference["conditions"])
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", seen, lora, reference)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


TRACK = [[{"x": 24, "y": 24}, {"x": 24, "y": 72}, {"x": 36, "y": 40}, {"x": 48, "y": 72}]]


def motion_tracks() -> Graph:
    graph = Graph(
        "motion_tracks",
        "Motion tracks on a picture",
        OPENS + "What stands in the picture moves as the points of a track do. **ic-motion** was trained for another "
        "kind of reference, and stands for the IC-LoRA *motion-track-control*.\n\n"
        "**Your own**: choose a picture in *Load Image* and that IC-LoRA; write into *LTX-2 Motion Tracks* the size of "
        "the picture, the length of the clip, and for each thing the points that it passes through, or connect the "
        "coordinates of a *Spline Editor*. A track of one point stands still.",
        files=("ic_loras",),
    )
    shown = picture("first", "Your picture")
    usual = Usual(graph, RED, picture=shown["IMAGE"])
    first = node("LTX2AVImage", image=shown["IMAGE"], frame=0, strength=1.0, compression=-1)
    tracks = node("LTX2AVMotionTracks", tracks=json.dumps(TRACK), width=96, height=96, frames=33)
    lora = node("LTX2AVLoadICLora", model=usual.model, lora="built-in: ic-motion")
    reference = node(
        "LTX2AVReferenceVideo",
        images=tracks["images"], downscale=lora["downscale"], temporal_scale=lora["temporal_scale"],
        conditions=first["conditions"],
    )  # fmt: skip
    usual.finish(models=(lora,))
    sampler = usual.sampled(model=lora["model"], conditions=reference["conditions"], seed=21)
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", shown, first, tracks, reference)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph
