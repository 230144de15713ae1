"""Shipped workflows that are given pictures or one of both streams."""

from pack.drawing import Graph
from pack.shipped.parts import OPENS, RED, Usual, film, node, picture, sound


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
        "**Your own sound**: choose it in *Load Audio*; the clip becomes as long as it is. The models were made for up "
        "to 20 s: cut a longer one with *Trim Audio Duration*. If speech makes a picture that stands still, raise "
        "*noise* to 0.1 or 0.3.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    heard = sound()
    usual = Usual(graph, RED, audio=heard["AUDIO"])
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
        "**Your own video**: choose it in *Load Video*; shape, length and rate follow it. The model sees it as small "
        "as *megapixels* says; what you get has its own size.\n\n"
        "**Real clips**: choose the model in *LTX-2 Load Model* and write a prompt.",
    )
    seen = film()
    parts = node("GetVideoComponents", video=seen["VIDEO"])
    usual = Usual(graph, RED, video=seen["VIDEO"], fps=parts["fps"], length="as the sound or video")
    given = node("LTX2AVVideoToAudio", images=parts["images"])
    usual.finish()
    sampler = usual.sampled(conditions=given["conditions"], seed=24)
    graph.put(1, "Clip", usual.empty)
    graph.put(2, "Given", seen, parts, given)
    graph.put(3, "Sampling", sampler)
    graph.put(4, "Result", *usual.decoded(sampler["av_latent"], images=parts["images"]))
    return graph
