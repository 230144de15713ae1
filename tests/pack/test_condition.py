"""What is given, on the graph: each condition node, their chain, and what they say when something cannot be."""

import copy
import shutil
import wave

import av
import numpy as np
import pytest
from pack.client import Prompt
from pack.clip import pictures_in, saved, sound_in
from pack.workflow import add, change, node

from ltx2_core.conditioning import AudioSource

pytestmark = pytest.mark.comfy


@pytest.fixture
def graph(prompt) -> Prompt:
    """A clip of three steps ("first"), and a sampler ("second") for what is given; their frames and sound are saved."""
    model, sampler, decode = (node(prompt, name) for name in ("LTX2AVLoadModel", "LTX2AVSample", "LTX2AVDecode"))
    del prompt[node(prompt, "SaveVideo")]
    second = copy.deepcopy(prompt[sampler]["inputs"]) | {"seed": 5}
    prompt = {key: value for key, value in prompt.items() if key not in (sampler, decode)}
    return add(
        prompt,
        first=("LTX2AVSample", second | {"seed": 4}),
        source=("LTX2AVDecode", {"model": [model, 0], "latent": ["first", 0]}),
        picture=("ImageFromBatch", {"image": ["source", 1], "batch_index": 0, "length": 1}),
        second=("LTX2AVSample", second),
        decode=("LTX2AVDecode", {"model": [model, 0], "latent": ["second", 0]}),
        pictures=("SaveImage", {"images": ["decode", 1], "filename_prefix": "pictures"}),
        sound=("SaveAudio", {"audio": ["decode", 2], "filename_prefix": "sound"}),
        given=("SaveImage", {"images": ["source", 1], "filename_prefix": "given"}),
        heard=("SaveAudio", {"audio": ["source", 2], "filename_prefix": "heard"}),
    )


def with_conditions(graph: Prompt, **nodes) -> Prompt:
    """The second sampler takes the last one of a chain of condition nodes."""
    before = None
    for name, (class_type, inputs) in nodes.items():
        add(graph, **{name: (class_type, inputs | ({"conditions": [before, 0]} if before else {}))})
        before = name
    graph["second"]["inputs"]["conditions"] = [before, 0]
    return graph


class Result:
    """What a run made, and what it was given."""

    def __init__(self, server, run):
        self.frames, self.given = (pictures_in(saved(server, run, name)).astype(int) for name in ("pictures", "given"))
        self.sound, self.heard = (sound_in(*saved(server, run, name))[0] for name in ("sound", "heard"))

    def distance(self, *frames: int) -> float:
        """From the given frames, in steps of 8 bit, on average."""
        chosen = list(frames)
        return float(np.abs(self.frames[chosen] - self.given[chosen]).mean())


FIRST = {"image": ["picture", 0], "frame": 0, "strength": 1.0, "compression": 0}


def test_a_first_frame_is_kept_and_another_seed_encodes_it_once(server, client, graph):
    with_conditions(graph, image=("LTX2AVImage", FIRST))
    result = Result(server, client.run(graph))
    assert result.distance(0) < 4 and (result.frames != result.given).any()
    built = server.log.count("Built video_encoder")
    again = client.run(with_seed(graph, 6))
    assert server.log.count("Built video_encoder") == built >= 1
    assert "image" in again.cached and Result(server, again).distance(0) < 4


def with_seed(graph: Prompt, seed: int) -> Prompt:
    graph["second"]["inputs"]["seed"] = seed
    return graph


def test_keyframes_are_a_batch_with_a_list_of_frames(server, client, graph):
    add(graph, batch=("RepeatImageBatch", {"image": ["picture", 0], "amount": 2}))
    keyframes = {"images": ["batch", 0], "frames": "0, -1", "strengths": "1", "compression": 0}
    with_conditions(graph, keyframes=("LTX2AVKeyframes", keyframes))
    looped = Result(server, client.run(graph))
    by_one = {"image": ["picture", 0], "strength": 1.0, "compression": 0}
    chain = {"a": ("LTX2AVImage", by_one | {"frame": 0}), "b": ("LTX2AVImage", by_one | {"frame": 32})}
    assert (Result(server, client.run(with_conditions(graph, **chain))).frames == looped.frames).all()
    graph["keyframes"]["inputs"]["frames"] = "0, 1, 2"
    graph["second"]["inputs"]["conditions"] = ["keyframes", 0]
    assert "2 pictures came with 3 frames and 1 strength" in client.run(graph).error


def test_a_given_sound_is_carried_as_it_is(server, client, graph):
    with_conditions(graph, sound_for=("LTX2AVAudioToVideo", {"audio": ["source", 2], "noise": 0.1}))
    graph["decode"]["inputs"]["audio"] = ["source", 2]
    result = Result(server, client.run(graph))
    assert (result.sound == result.heard).all() and (result.frames != result.given).any()


def test_a_shorter_sound_is_filled_with_silence_and_the_node_says_so(server, client, graph):
    add(graph, short=("TrimAudioDuration", {"audio": ["source", 2], "start_index": 0.0, "duration": 1.0}))
    with_conditions(graph, sound_for=("LTX2AVAudioToVideo", {"audio": ["short", 0]}))
    graph["decode"]["inputs"]["audio"] = ["short", 0]
    run = client.run(graph)
    assert "it lasts 1.00 s, and the clip 1.38 s: the rest is filled with silence" in dict(run.texts)["decode"]
    result = Result(server, run)
    assert (result.sound[:, :48_000] == result.heard[:, :48_000]).all() and not result.sound[:, 48_000:].any()


def test_surround_sounds_as_on_the_command_line(server, client, graph):
    """Music at the left and right, speech in the middle, and something behind, as Load Audio passes them."""
    time = np.arange(66_150) / 48_000
    channels = [np.sin(2 * np.pi * pitch * time) * level for pitch, level in
                ((300, 0.5), (500, 0.4), (200, 0.6), (50, 0.9), (700, 0.2), (900, 0.1))]  # fmt: skip
    path = server.base / "input" / "surround.wav"
    path.parent.mkdir(exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((6, 2, 48_000, 0, "NONE", ""))
        file.writeframes((np.stack(channels, -1) * 32767).round().astype("<i2").tobytes())
    add(graph, load=("LoadAudio", {"audio": "surround.wav"}))
    with_conditions(graph, sound_for=("LTX2AVAudioToVideo", {"audio": ["load", 0]}))
    graph["decode"]["inputs"]["audio"] = ["load", 0]
    (kept,) = saved(server, client.run(graph), "sound")
    made, read = (AudioSource.of(each).waveform[:, :66_000] for each in (kept, path))
    assert made.shape == (2, 66_000) and (made - read).abs().max() < 1e-4 and (made[0] - made[1]).abs().max() > 0.1


def test_anamorphic_video_is_changed_as_it_is_seen(server, client, graph):
    (server.base / "input").mkdir(exist_ok=True)
    with av.open(str(server.base / "input" / "wide.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        for _ in range(17):
            container.mux(stream.encode(av.VideoFrame(96, 96, "yuv420p")))
        container.mux(stream.encode())
    add(graph, load=("LoadVideo", {"file": "wide.mp4"}))
    encoded(graph, video=["load", 0])
    del graph["heard"], graph["sound"]
    run = client.run(with_conditions(graph, retake=("LTX2AVRetake", {"start": 0.2, "end": 0.4, "streams": "picture"})))
    assert "192 x 96, 17 frames" in dict(run.texts)["encode"]
    assert pictures_in(saved(server, run, "pictures")).shape == (17, 96, 192, 3)


def test_given_frames_are_shown_as_they_are(server, client, graph):
    with_conditions(graph, film=("LTX2AVVideoToAudio", {"images": ["source", 1]}))
    graph["decode"]["inputs"]["images"] = ["source", 1]
    result = Result(server, client.run(graph))
    assert (result.frames == result.given).all() and (result.sound != result.heard).any()
    add(graph, part=("ImageFromBatch", {"image": ["source", 1], "batch_index": 0, "length": 20}))
    graph["film"]["inputs"]["images"] = ["part", 0]
    assert "The given video has 20 frames at 24 fps, the clip 33" in client.run(graph).error
    graph["film"]["inputs"] |= {"video": ["source", 0]}
    assert "Connect either images or a video" in client.complaint(graph)


def encoded(graph: Prompt, **clip) -> Prompt:
    """The second sampler changes the first clip."""
    model = [node(graph, "LTX2AVLoadModel"), 0]
    graph["second"]["inputs"]["latent"] = ["encode", 0]
    return add(graph, encode=("LTX2AVEncode", {"model": model} | (clip or {"video": ["source", 0]})))


def test_a_retake_keeps_the_rest(server, client, graph):
    model = graph["source"]["inputs"]["model"]
    add(encoded(graph), trip=("LTX2AVVideoDecode", {"model": model, "latent": ["encode", 0]}))
    graph["given"]["inputs"]["images"] = ["trip", 0]
    retake = {"start": 1.0, "end": 1.4, "streams": "picture"}
    result = Result(server, client.run(with_conditions(graph, retake=("LTX2AVRetake", retake))))
    assert result.distance(*range(8)) < 1 < result.distance(*range(25, 33))
    graph["retake"]["inputs"] |= {"start": 1.0, "end": 1.0}
    assert "from 1 s to 1 s; it must end after its beginning" in client.complaint(graph)
    graph["retake"]["inputs"] |= {"start": 2.0, "end": 3.0}
    assert "from 2 s to 3 s, but the clip ends at 1.38 s" in client.run(graph).error


def test_what_a_retake_keeps_is_the_video_itself(server, client, graph):
    """Where it passes over into what is new, a little of both; and a clip that goes on needs no conditions."""
    with_conditions(encoded(graph), retake=("LTX2AVRetake", {"start": 0.9, "end": 1.1, "streams": "picture and sound"}))
    blend = {"images": ["decode", 1], "audio": ["decode", 2], "video": ["source", 0], "fps": 24.0, "radius": 0}
    add(graph, blend=("LTX2AVBlend", blend | {"conditions": ["retake", 0]}))
    plain = Result(server, client.run(graph))
    graph["pictures"]["inputs"]["images"], graph["sound"]["inputs"]["audio"] = ["blend", 0], ["blend", 1]
    blended = Result(server, client.run(graph))
    assert blended.distance(*range(9)) == 0 < plain.distance(*range(9))
    assert blended.distance(20, 22) == plain.distance(20, 22) > 1
    kept = slice(0, int(0.8 * 48_000))
    assert np.abs(blended.sound[..., kept] - blended.heard[..., kept]).max() < 1e-4
    assert np.abs(plain.sound[..., kept] - plain.heard[..., kept]).max() > 1e-3
    add(graph, longer=("LTX2AVExtend", {"latent": ["encode", 0], "seconds": 0.5}))
    graph["second"]["inputs"] |= {"latent": ["longer", 0]}
    del graph["second"]["inputs"]["conditions"], graph["blend"]["inputs"]["conditions"]
    longer = Result(server, client.run(graph))
    assert len(longer.frames) == 41 and longer.distance(*range(25)) == 0


def test_a_mask_keeps_what_it_does_not_cover(server, client, graph):
    add(
        encoded(graph, images=["source", 1], audio=["source", 2]),
        black=("SolidMask", {"value": 0.0, "width": 96, "height": 96}),
        white=("SolidMask", {"value": 1.0, "width": 32, "height": 96}),
        mask=(
            "MaskComposite",
            {"destination": ["black", 0], "source": ["white", 0], "x": 0, "y": 0, "operation": "add"},
        ),
    )
    region = {"mask": ["mask", 0], "feather": 0, "sound": False}
    run = client.run(with_conditions(graph, region=("LTX2AVInpaint", region)))
    assert "96 x 96, 33 frames, 1.38 s at 24 fps" in dict(run.texts)["encode"]
    result = Result(server, run)
    changed = np.abs(result.frames - result.given).mean((0, 1, 3))
    assert changed[:32].mean() > 2 * changed[64:].mean()
    add(
        graph,
        several=("MaskToImage", {"mask": ["mask", 0]}),
        twice=("RepeatImageBatch", {"image": ["several", 0], "amount": 2}),
    )
    add(graph, masks=("ImageToMask", {"image": ["twice", 0], "channel": "red"}))
    graph["region"]["inputs"]["mask"] = ["masks", 0]
    assert "The mask has 2 frames; it needs 1, or 33 as the clip" in client.run(graph).error


def test_a_part_of_an_empty_latent_cannot_be_made_anew(client, graph):
    add(graph, white=("SolidMask", {"value": 1.0, "width": 64, "height": 64}))
    retake = ("LTX2AVRetake", {"start": 0.2, "end": 0.4, "streams": "picture and sound"})
    for part in retake, ("LTX2AVInpaint", {"mask": ["white", 0], "feather": 1, "sound": True}):
        run = client.run(with_conditions(graph, part=part))
        assert "this LATENT is empty: connect that of LTX-2 Encode Clip" in run.error
        assert not any(run.steps("second")), "it was sampled first"


def test_a_clip_of_which_nothing_stays_is_told_of(client, graph):
    """As where Retake is muted; not where a part of it stays, or nothing was there."""
    graph["second"]["inputs"]["latent"] = ["first", 0]
    own = graph["second"]["inputs"].pop("sigmas")
    for sigmas in ({"steps": 3}, {"sigmas": own}):  # by the recipe, whose first level is just below 1
        graph["second"]["inputs"].update(sigmas)
        run = client.run(graph)
        assert "Nothing stays of the clip in this LATENT" in dict(run.texts)["second"]
        assert "Nothing stays" not in dict(run.texts).get("first", "")
    retake = ("LTX2AVRetake", {"start": 0.2, "end": 0.4, "streams": "picture and sound"})
    assert "Nothing stays" not in dict(client.run(with_conditions(graph, part=retake)).texts).get("second", "")


def test_a_video_file_is_read_at_the_rate_of_the_clip(server, client, graph):
    """Through Load Video: to be changed, to be followed, and to be given sound."""
    add(graph, save=("SaveVideo", {"video": ["source", 0], "filename_prefix": "x", "format": "auto", "codec": "auto"}))
    (path,) = saved(server, client.run(graph), "save")
    (server.base / "input").mkdir(exist_ok=True)
    shutil.copy(path, server.base / "input" / "film.mp4")
    del graph["save"]
    add(graph, load=("LoadVideo", {"file": "film.mp4"}))
    encoded(graph, video=["load", 0], fps=12.0)
    run = client.run(with_conditions(graph, retake=("LTX2AVRetake", {"start": 0.5, "end": 1.0, "streams": "picture"})))
    assert "96 x 96, 17 frames, 1.42 s at 12 fps" in dict(run.texts)["encode"]
    assert len(pictures_in(saved(server, run, "pictures"))) == 17
    graph["second"]["inputs"]["latent"] = graph["first"]["inputs"]["latent"]
    reference = {"video": ["load", 0], "downscale": 1, "temporal_scale": 1, "strength": 1.0}
    assert client.run(with_conditions(graph, film=("LTX2AVVideoToAudio", {"video": ["load", 0]}))).error == ""
    assert client.run(with_conditions(graph, reference=("LTX2AVReferenceVideo", reference))).error == ""


def test_a_video_without_sound_is_said_to_have_none(client, graph):
    add(graph, silent=("CreateVideo", {"images": ["source", 1], "fps": 24.0}))
    encoded(graph, video=["silent", 0])
    del graph["heard"], graph["sound"]
    run = client.run(with_conditions(graph, retake=("LTX2AVRetake", {"start": 0.5, "end": 1.0, "streams": "picture"})))
    assert run.end == "execution_success" and "There is no sound" in dict(run.texts)["encode"]


def test_picture_sound_and_references_work_together(server, client, graph):
    chain = {
        "image": ("LTX2AVImage", FIRST),
        "reference": ("LTX2AVReferenceVideo", {"images": ["source", 1], "downscale": 1, "temporal_scale": 2,
                                               "strength": 1.0, "attention": 0.5}),
        "voice": ("LTX2AVReferenceAudio", {"audio": ["source", 2], "strength": 1.0}),
        "sound_for": ("LTX2AVAudioToVideo", {"audio": ["source", 2]}),
    }  # fmt: skip
    graph["decode"]["inputs"]["audio"] = ["source", 2]
    result = Result(server, client.run(with_conditions(graph, **chain)))
    assert result.distance(0) < 4 and (result.sound == result.heard).all()
    graph["reference"]["inputs"]["downscale"] = 2
    assert "multiples of 64; it has 96 x 96" in client.run(graph).error


def test_a_character_says_its_way_and_is_looked_at(server, client, graph):
    who = {"model": graph["source"]["inputs"]["model"], "way": "auto", "strength": 1.0, "pictures": ["picture", 0]}
    run = client.run(with_conditions(graph, who=("LTX2AVCharacter", who | {"voice": ["source", 2], "seconds": 0.5})))
    assert "way: keyframe (the IC-LoRA Ingredients is not loaded); voice: no loaded LoRA" in dict(run.texts)["who"]
    with_it = Result(server, run).frames
    graph["second"]["inputs"].pop("conditions")
    assert (Result(server, client.run(graph)).frames != with_it).any()
    graph["second"]["inputs"]["conditions"], graph["who"]["inputs"]["way"] = ["who", 0], "ingredients"
    assert "way is ingredients, but the model has no LoRA" in client.run(graph).error


def test_tracks_are_drawn_for_a_reference(server, client, graph):
    """Coordinates as a spline editor hands them on; a clip that follows them is another one than a clip without."""
    spline = '[{"x": 20, "y": 48}, {"x": 76, "y": 48}]'
    tracks = {"tracks": spline, "width": 96, "height": 96, "frames": 33}
    add(graph, tracks=("LTX2AVMotionTracks", tracks))
    graph["given"]["inputs"]["images"] = ["tracks", 0]
    settings = {"images": ["tracks", 0], "downscale": 1, "temporal_scale": 1, "strength": 1.0}
    made = []
    for text in (spline, "[]"):
        graph["tracks"]["inputs"]["tracks"] = text
        run = client.run(with_conditions(graph, reference=("LTX2AVReferenceVideo", settings)))
        assert run.end == "execution_success", run.error
        made.append((pictures_in(saved(server, run, "pictures")), pictures_in(saved(server, run, "given"))))
    (moved, shown), (still, black) = made
    assert shown.shape == (33, 96, 96, 3) and shown[-1, 48, 76, 2] > 0 and not black.any() and len(black) == 1
    assert (moved != still).any()
    graph["tracks"]["inputs"]["tracks"] = '[{"x": 1}]'
    assert "point 1 of track 1" in client.complaint(graph)


def test_what_is_filled_of_a_reference_is_green_to_the_model(server, client, graph):
    """A reference that is filled as a whole is that of a green picture; another one makes another clip."""
    settings = {"images": ["source", 1], "downscale": 1, "temporal_scale": 1, "strength": 1.0}
    add(graph, all=("SolidMask", {"value": 1.0, "width": 96, "height": 96}))
    add(graph, green=("EmptyImage", {"width": 96, "height": 96, "batch_size": 33, "color": 0x66FF00}))
    made = []
    for more in ({"fill": ["all", 0], "grow": 3, "grow_frames": 1}, {"images": ["green", 0]}, {}):
        run = client.run(with_conditions(graph, reference=("LTX2AVReferenceVideo", settings | more)))
        assert run.end == "execution_success", run.error
        made.append(pictures_in(saved(server, run, "pictures")))
    filled, green, plain = made
    assert (filled == green).all() and (filled != plain).any()
    settings |= {"outpaint": "left", "margin": 0.5}
    add(
        graph,
        blend=("LTX2AVBlend", {"images": ["decode", 1], "conditions": ["reference", 0], "fps": 24.0, "radius": 0}),
    )
    graph["pictures"]["inputs"]["images"] = ["blend", 0]
    run = client.run(with_conditions(graph, reference=("LTX2AVReferenceVideo", settings)))
    assert run.end == "execution_success", run.error
    blended, given = (pictures_in(saved(server, run, name)).astype(int) for name in ("pictures", "given"))
    small = given.reshape(33, 48, 2, 48, 2, 3).mean((2, 4))
    inside, there = blended[:, 28:68, 52:], small[:, 4:44, 4:]  # of so small a picture the brightness differs
    assert abs(np.diff(inside, axis=2) - np.diff(there, axis=2)).mean() < 2


def test_a_picture_outside_the_clip(client, graph):
    with_conditions(graph, image=("LTX2AVImage", FIRST | {"frame": 40}))
    assert "A picture is given at frame 40, but the clip has 33 frames" in client.run(graph).error


def test_a_given_stream_needs_no_negative_prompt(client, graph):
    with_conditions(graph, film=("LTX2AVVideoToAudio", {"images": ["source", 1]}))
    graph["second"]["inputs"] |= {"text_scale": 1.0, "video_text_scale": 4.0, "stg_scale": 0.0}
    del graph["second"]["inputs"]["negative"]
    assert client.run(graph).end == "execution_success"
    with_conditions(graph, sound_for=("LTX2AVAudioToVideo", {"audio": ["source", 2], "conditions": ["film", 0]}))
    assert "Nothing is left to make" in client.run(graph).error


def test_a_clip_goes_on_and_a_long_one_is_made_in_windows_and_resumed(server, client, graph):
    add(graph, longer=("LTX2AVExtend", {"latent": ["first", 0], "seconds": 2.0}))
    add(graph, windows=("LTX2AVLongVideo", {"window": 33, "overlap": 16, "drift_control": 0.0}))
    add(graph, segment=("LTX2AVSegment", {"windows": ["windows", 0], "positive": graph["second"]["inputs"]["positive"],
                                          "start": 2.0}))  # fmt: skip
    graph["second"]["inputs"] |= {"latent": ["longer", 0], "windows": ["segment", 0]}
    run = client.run(graph)
    assert "33 frames became 81, 3.38 s" in dict(run.texts)["longer"]
    result = Result(server, run)
    assert len(result.frames) == 81 and result.distance(*range(16)) < 1
    assert run.steps("second")[-1] == 3 * 4  # of the first window everything is given
    known = server.log.count("This window was made before")
    graph["second"]["inputs"]["fps"] = 24.0  # says what was known, and makes the node run again
    again = client.run(graph)
    assert server.log.count("This window was made before") > known and "second" in again.executed
    assert (Result(server, again).frames == result.frames).all()
    graph["second"]["inputs"]["start_step"] = 1
    assert "Windows are made from beginning to end" in client.run(graph).error


def test_sound_alone(server, client, graph):
    model = graph["source"]["inputs"]["model"]
    change(graph, LTX2AVEmptyLatent={"streams": "sound only"})
    picture = ("source", "picture", "second", "decode", "pictures", "given", "heard")
    kept = {key: each for key, each in graph.items() if key not in picture}
    add(kept, mel=("LTX2AVAudioDecode", {"model": model, "latent": ["first", 0]}))
    add(kept, waves=("LTX2AVVocoder", {"model": model, "mel": ["mel", 0]}))
    kept["sound"]["inputs"]["audio"] = ["waves", 0]
    samples, rate = sound_in(*saved(server, client.run(kept), "sound"))
    assert abs(samples.size / 2 / rate - 33 / 24) < 0.1 and samples.any()
