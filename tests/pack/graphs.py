"""The shipped workflows: what is in each one, drawn in columns.

PYTHONPATH=tests python tests/pack/graphs.py

starts a ComfyUI and writes every file in ``workflows`` anew. A test holds the files to what stands here.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pack.client import Client
from pack.drawing import Graph, Node, Output, written
from pack.host import REPOSITORY, Host, serve

FOLDER = REPOSITORY / "workflows"


def node(kind: str, title: str = "", bypassed: bool = False, **inputs: Any) -> Node:
    """Make a node of ours, or of the host if its name has no menu of ours."""
    return Node(kind, inputs, title, bypassed)


class Usual:
    """What all graphs begin with: a model, Gemma, prompts, contexts, an empty latent."""

    def __init__(self, graph: Graph, prompt: str, **size: Any):
        self.graph = graph
        self.loader = node("LTX2AVLoadModel", checkpoint="miniature (built in)")
        self.gemma = node("LTX2AVLoadGemma", text_encoder="as the model")
        self.model = self.loader["model"]
        self.text = self.encoded(prompt)
        self.contexts = node(
            "LTX2AVThinkingTokens",
            model=self.model, positive=self.text["positive"], negative=self.text["negative"],
        )  # fmt: skip
        self.empty = node("LTX2AVEmptyLatent", model=self.model, **size)

    def encoded(self, prompt: str, title: str = "") -> Node:
        """Another prompt."""
        return node(
            "LTX2AVGemmaTextEncode", title, model=self.model, gemma=self.gemma["gemma"], prompt=prompt, negative=""
        )

    def sampled(self, latent: Output | None = None, model: Output | None = None, title: str = "", **more: Any) -> Node:
        """The sampler, which follows the recipe of the model."""
        given = {"positive": self.contexts["positive"], "negative": self.contexts["negative"], "seed": 7}
        latent = latent or self.empty["av_latent"]
        return node("LTX2AVSample", title, model=model or self.model, latent=latent, **given | more)

    def decoded(self, latent: Output, **more: Any) -> tuple[Node, Node]:
        """Picture and sound as a video, and where it is saved."""
        decode = node("LTX2AVDecode", model=self.model, latent=latent, **more)
        return decode, node("SaveVideo", video=decode["video"], filename_prefix="video/LTX-2")

    def finish(self, *, models: tuple[Node, ...] = (), prompts: tuple[Node, ...] = ()) -> None:
        """Put in what all graphs begin with."""
        self.graph.columns[0].insert(0, ("Model", [self.loader, self.gemma, *models]))
        self.graph.columns[1].insert(0, ("Prompt", [self.text, *prompts, self.contexts]))


EXAMPLE = "ltx2_example_"


def picture(file: str, title: str = "") -> Node:
    """A picture to choose."""
    return node("LoadImage", title, image=f"{EXAMPLE}{file}.png")


def film(file: str = "clip", title: str = "Your video") -> Node:
    """A video to choose."""
    return node("LoadVideo", title, file=f"{EXAMPLE}{file}.mp4")


def sound(title: str = "Your sound") -> Node:
    """A sound to choose."""
    return node("LoadAudio", title, audio=f"{EXAMPLE}sound.flac")


RED = "a red ball bounces twice on the left"

OPENS = "Press **Run**. The graph opens with the *miniature*, a tiny LTX-2 inside the pack: nothing to download. "


def text_to_video() -> Graph:
    graph = Graph(
        "text_to_video",
        "Text to video with sound",
        OPENS + "It knows bouncing balls and nothing else, such as *a green ball bounces three times on the right*.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt. Gemma, size, length, steps, scales "
        "and the negative prompt follow the model.\n\n"
        "**Your own settings**: *size*, *megapixels* and *seconds* in *LTX-2 Empty AV Latent*; in the sampler set "
        "*settings* to **these widgets**, and its sliders count.",
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
        "*max_vram* or *max_ram*, and all nodes behind it keep to that.",
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


def image_to_video() -> Graph:
    graph = Graph(
        "image_to_video",
        "Image to video",
        OPENS + "A picture becomes the **first frame** of a clip.\n\n"
        "**Your own picture**: choose it in *Load Image*; the clip gets its aspect ratio. It stays as it is (strength "
        "1); lower *strength* to let it change, raise *compression* if the clip stands still.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    shown = picture("first", "Your picture")
    usual = Usual(graph, RED, picture=shown["IMAGE"])
    first = node("LTX2AVImage", image=shown["IMAGE"], frame=0, strength=1.0, compression=-1)
    usual.finish()
    sampler = usual.sampled(conditions=first["conditions"], seed=21)
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", shown, first)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


def first_last_frame() -> Graph:
    graph = Graph(
        "first_last_frame",
        "First and last frame to video",
        OPENS + "The clip goes from a first picture to a last one.\n\n"
        "**Your own pictures**: choose them in the two *Load Image*. Frame 0 is the beginning, -1 the end; any frame "
        "between works, too, and any number of pictures: chain one *LTX-2 Image to Video* for each, or give a batch to "
        "*LTX-2 Keyframes*.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    begin, end = picture("first", "Your first picture"), picture("last", "Your last picture")
    usual = Usual(graph, RED, picture=begin["IMAGE"])
    first = node("LTX2AVImage", "First", image=begin["IMAGE"], frame=0, strength=1.0, compression=-1)
    last = node(
        "LTX2AVImage", "Last",
        image=end["IMAGE"], conditions=first["conditions"], frame=-1, strength=1.0, compression=-1,
    )  # fmt: skip
    usual.finish()
    sampler = usual.sampled(conditions=last["conditions"], seed=22)
    graph.put(1, "Given", begin, first)
    graph.put(2, "Clip", usual.empty)
    graph.put(2, "Given", end, last)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


def image_to_loop() -> Graph:
    graph = Graph(
        "image_to_loop",
        "Image to loop",
        OPENS + "A picture is given twice, as the **first and the last frame**: the clip can be played in a loop.\n\n"
        "**Your own picture**: choose it in *Load Image*. *LTX-2 Keyframes* takes a batch of pictures and a list of "
        "their frames, here `0, -1`: any number of them at any frames, each with its strength.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    shown = picture("first", "Your picture")
    usual = Usual(graph, RED, picture=shown["IMAGE"])
    twice = node("RepeatImageBatch", image=shown["IMAGE"], amount=2)
    keyframes = node("LTX2AVKeyframes", images=twice["IMAGE"], frames="0, -1", strengths="1", compression=-1)
    usual.finish()
    sampler = usual.sampled(conditions=keyframes["conditions"], seed=23)
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", shown, twice, keyframes)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


def audio_to_video() -> Graph:
    graph = Graph(
        "audio_to_video",
        "Audio to video",
        OPENS + "A sound is given, and its **picture** is made: the ball meets the floor when it is heard. The clip "
        "carries the given sound **as it is**; a shorter one is filled with silence.\n\n"
        "**Your own sound**: choose it in *Load Audio*, and write its length into *seconds*. If speech makes a picture "
        "that stands still, raise *noise* to 0.1 or 0.3.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    heard = sound()
    usual = Usual(graph, RED)
    given = node("LTX2AVAudioToVideo", audio=heard["AUDIO"])
    usual.finish()
    sampler = usual.sampled(conditions=given["conditions"], seed=23)
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", heard, given)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"], audio=heard["AUDIO"]))
    return graph


def video_to_audio() -> Graph:
    graph = Graph(
        "video_to_audio",
        "Video to audio",
        OPENS + "The **frames** of a video are given: only the sound is made, and follows them. The clip shows the "
        "given frames **as they are**.\n\n"
        "**Your own video**: choose it in *Load Video*; size, length and rate follow it (multiples of 32, 8 k + 1 "
        "frames).\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    seen = film()
    parts = node("GetVideoComponents", video=seen["VIDEO"])
    size = node("GetImageSize", image=parts["images"])
    usual = Usual(
        graph, RED, width=size["width"], height=size["height"], frames=size["batch_size"], fps=parts["fps"],
        size="by hand", length="in frames",
    )  # fmt: skip
    given = node("LTX2AVVideoToAudio", images=parts["images"])
    usual.finish()
    sampler = usual.sampled(conditions=given["conditions"], seed=24)
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", seen, parts, size, given)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"], images=parts["images"]))
    return graph


def own_clip(usual: Usual, seen: Node, **more: Any) -> Node:
    """A video as a latent."""
    return node("LTX2AVEncode", model=usual.model, video=seen["VIDEO"], **more)


def extend() -> Graph:
    graph = Graph(
        "extend",
        "Extend a video with its sound",
        OPENS + "*LTX-2 Extend* makes room for **two thirds of a second** more, and the sampler goes on where the "
        "video ended, in picture and sound.\n\n"
        "**Your own video**: choose it in *Load Video*, and say in *seconds* how much longer it becomes. Where the "
        "whole is more than the model makes at once, connect *LTX-2 Long Video* to the sampler.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    usual = Usual(graph, RED)
    seen = film()
    encoded = own_clip(usual, seen)
    longer = node("LTX2AVExtend", latent=encoded["av_latent"], seconds=0.7)
    usual.finish()
    sampler = usual.sampled(longer["av_latent"], seed=35)
    graph.put(2, "Given", seen, encoded, longer)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


def retake() -> Graph:
    graph = Graph(
        "retake",
        "Retake some seconds of a video",
        OPENS + "**0.5 to 1.0 s** of a video are made anew, and the rest is kept in picture and sound.\n\n"
        "**Your own video**: choose it in *Load Video*, and the seconds in *LTX-2 Retake*. *streams* retakes the "
        "picture or the sound alone; the other one stays and is followed.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    usual = Usual(graph, RED)
    seen = film()
    encoded = own_clip(usual, seen)
    part = node("LTX2AVRetake", start=0.5, end=1.0)
    usual.finish()
    sampler = usual.sampled(encoded["av_latent"], conditions=part["conditions"], seed=31)
    graph.put(2, "Given", seen, encoded, part)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
    return graph


def inpaint() -> Graph:
    graph = Graph(
        "inpaint",
        "Inpaint a region of a video",
        OPENS + "The **left two thirds** of a video are made anew, with a **green** ball; the rest of the picture and "
        "the sound are kept.\n\n"
        "**Your own video**: choose it in *Load Video*, and a picture of the region in *Load Image (as Mask)*: white "
        "is made anew, one mask for all frames or one for each. It counts in cells of 32 x 32 pixels; *feather* says "
        "how softly the change ends.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    usual = Usual(graph, "a green ball bounces twice on the left")
    seen = film()
    encoded = own_clip(usual, seen)
    mask = node("LoadImageMask", "Your region", image=f"{EXAMPLE}mask.png", channel="red")
    region = node("LTX2AVInpaint", mask=mask["MASK"])
    usual.finish()
    sampler = usual.sampled(encoded["av_latent"], conditions=region["conditions"], seed=26)
    graph.put(1, "Given", mask, region)
    graph.put(2, "Given", seen, encoded)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"]))
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


def outpaint() -> Graph:
    graph = Graph(
        "outpaint",
        "Outpaint a video",
        OPENS + "The video is shown smaller inside of the clip, and the model paints **around** it; *LTX-2 Blend with "
        "Reference* puts its own pixels back. **ic-motion** stands for the IC-LoRA for in- and outpainting: it paints "
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
    decode, save = usual.decoded(sampler["av_latent"])
    parts = node("GetVideoComponents", video=decode["video"])
    blend = node("LTX2AVBlend", images=parts["images"], conditions=reference["conditions"], fps=parts["fps"])
    video = node("CreateVideo", images=blend["images"], audio=parts["audio"], fps=parts["fps"])
    save.inputs["video"] = video["VIDEO"]
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", seen, reference)
    graph.put(3, "Sampling", sampler)
    graph.put(3, "Result", decode)
    graph.put(4, "Result", parts, blend, video, save)
    return graph


BALLROOM = (
    "The miniature knows one ball of one size, so its upscaler enlarges the **room** instead: that shows the way, not "
    "the gain.\n\n"
)


def second_stage(usual: Usual) -> tuple[Node, Node]:
    """The upscaler, and the model with the distilled LoRA where its recipe asks for it."""
    upscaler = node("LTX2AVLoadUpscaler", upscaler="as the model")
    lora = node(
        "LTX2AVLoadLora", "Only where the second stage needs it",
        model=usual.model, lora="distilled LoRA of the model", strength=1.0,
    )  # fmt: skip
    return upscaler, lora


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
        files=("2.5",),
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
        files=("2.5",),
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


def refiner(usual: Usual, lora: Node, larger: Node, **more: Any) -> Node:
    """The refiner behind an upscaler."""
    return node(
        "LTX2AVRefine",
        model=lora["model"], positive=usual.contexts["positive"], negative=usual.contexts["negative"],
        latent=larger["av_latent"], seed=7, sound="hold", **more,
    )  # fmt: skip


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
    graph.put(3, "Result", mel, vocoder, node("SaveAudio", audio=vocoder["audio"], filename_prefix="audio/LTX-2"))
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


GRAPHS = (
    text_to_video, text_to_video_distilled, text_to_video_guided, image_to_video, first_last_frame, image_to_loop,
    audio_to_video, video_to_audio, extend, retake, inpaint, long_video, timeline, reference_voice, character,
    lora_camera, ic_lora_control, motion_tracks, outpaint, two_stage_1080p, raise_frame_rate, refine_4k,
    upscale_my_video, text_to_audio, hdr_video, several_servers,
)  # fmt: skip


def write_all() -> None:
    """Start a ComfyUI, and write every workflow anew."""
    with TemporaryDirectory() as folder, serve(Host.find(), Path(folder)) as server:
        info = Client(server.address).object_info()
    for make in GRAPHS:
        graph = make()
        (FOLDER / f"{graph.name}.json").write_text(written(graph, info), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_all()
