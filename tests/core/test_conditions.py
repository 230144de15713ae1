"""What people give becomes items at any size, and what they gave comes back as they gave it."""

import json
from dataclasses import replace
from fractions import Fraction
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from agreement import compare
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core import latents
from ltx2_core.conditioning import Frozen, Inpaint, Keyframe, ReferenceVideoTokens, Retake, State, apply_conditions
from ltx2_core.conditioning.blend import Blending, blend, grown, widen
from ltx2_core.conditioning.conditions import (
    InitClip,
    InpaintMask,
    KeepAudio,
    KeepVideo,
    ReferenceAudio,
    ReferenceVideo,
    RetakeRange,
    encode_conditions,
)
from ltx2_core.conditioning.fill import GREEN, grow, paint
from ltx2_core.conditioning.kept import chained, not_shown
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.preprocess import fit
from ltx2_core.conditioning.rate import at_rate
from ltx2_core.conditioning.sources import AudioSource, SoundPart, VideoSource, check_length
from ltx2_core.disk_cache import fingerprint
from ltx2_core.errors import SettingError
from ltx2_core.geometry import ClipShape
from ltx2_core.latents import STREAMS
from ltx2_core.pipeline.decode_audio import decode_audio, vocode
from ltx2_core.pipeline.decode_video import decode_video
from ltx2_core.pipeline.encode_conditions import SizeOnlyEncoders, encode_audio, encode_video, measure_conditions
from ltx2_core.pipeline.graph_codec import audio_source
from ltx2_core.pipeline.local_engine import LocalEngine
from ltx2_core.pipeline.long import WithinWindow, sampled_size
from ltx2_core.pipeline.stage import LatentSize
from ltx2_core.sampling import Guidance
from ltx2_core.sampling.windows import Segment, Windowing, split_windows

FPS = Fraction(24)
CLIP = ClipShape(96, 64, 33, FPS)
FRAMES = torch.rand(33, 64, 96, 3, generator=torch.Generator().manual_seed(0))
SOUND = AudioSource(torch.rand(2, 48_000, generator=torch.Generator().manual_seed(1)) - 0.5, 24_000)


class Seen(SizeOnlyEncoders):
    """Encoders that only note down what they are conditions."""

    def __init__(self, crf: int = 0):
        super().__init__(crf)
        self.pixels: list[torch.Tensor] = []

    def video(self, read, shape):
        self.pixels.append(torch.cat(list(read()), dim=2)[:, :, : shape[0]])
        assert tuple(self.pixels[-1].shape) == (1, 3, *shape)
        return super().video(read, shape)


def encoded(*conditions, shape=CLIP, streams=STREAMS, encode=None) -> list:
    return encode_conditions(conditions, shape, streams, encode or SizeOnlyEncoders())


# What becomes of each thing


def test_a_picture_is_encoded_at_the_size_of_each_stage():
    picture, encode = Picture(torch.rand(1, 40, 50, 3), -1, 0.7), Seen()
    for shape in (CLIP, ClipShape(192, 128, 33, FPS)):
        (item,) = encoded(picture, shape=shape, encode=encode)
        assert isinstance(item, Keyframe) and (item.frame, item.strength, item.append) == (-1, 0.7, False)
        assert item.latent.shape[2:] == (1, shape.height // 32, shape.width // 32)
    assert [tuple(each.shape[3:]) for each in encode.pixels] == [(64, 96), (128, 192)]


def test_a_picture_is_compressed_as_the_model_wants_it_or_as_the_user_says():
    as_model, as_user, plain = Seen(crf=33), Seen(crf=33), Seen(crf=33)
    encoded(Picture(FRAMES[:1]), encode=as_model)
    encoded(Picture(FRAMES[:1], compression=1), encode=as_user)
    encoded(Picture(FRAMES[:1], compression=0), encode=plain)
    exact = FRAMES[:1].permute(3, 0, 1, 2)[None] * 2 - 1
    lost = [(each.pixels[0] - exact).abs().mean() for each in (as_model, as_user, plain)]
    assert lost[0] > lost[1] > 0 and lost[2] == 0


def test_several_pictures_are_a_short_video():
    encode = Seen()
    encoded(Picture(FRAMES[:12], 8), encode=encode)
    assert encode.pictures == (2, 2, 3)


@pytest.mark.parametrize(
    ("count", "frame", "expected"),
    [
        (1, 8, [[8, 9]]),
        (8, 8, [[8, 9]]),
        (9, 8, [[8, 9], [9, 17]]),
        (17, 8, [[8, 9], [9, 17], [17, 25]]),
        (17, 5, [[5, 6], [6, 14], [14, 22]]),
        (9, -9, [[24, 25], [25, 33]]),
        (17, -9, [[24, 25], [25, 33]]),
        (9, -1, [[32, 33]]),
    ],
)
def test_several_pictures_are_told_to_be_where_they_are_shown(count, frame, expected):
    """Each latent is told the frames that it holds: its first picture alone, then eight and eight."""
    encode = Seen()
    (item,) = encoded(Picture(FRAMES[:count], frame), encode=encode)
    video = item(State.of(torch.zeros(1, 128, 5, 2, 3), FPS))
    assert (video.positions[0, 0, video.count :: 6] * 24).round().tolist() == expected
    assert_close(encode.pixels[0], fit(FRAMES[: expected[-1][1] - expected[0][0]], 96, 64))


def test_the_only_picture_that_counts_is_compressed_as_a_single_one():
    several, single = Seen(crf=33), Seen(crf=33)
    encoded(Picture(FRAMES[:5], 8), encode=several)
    encoded(Picture(FRAMES[:1], 8), encode=single)
    assert torch.equal(several.pixels[0], single.pixels[0])


def test_frames_of_another_rate_are_shown_when_they_are_nearest():
    footage = VideoSource(FRAMES, fps=Fraction(30))
    assert footage.count(FPS) == 26 and footage.count(Fraction(60)) == 66
    assert torch.equal(torch.cat([*footage.chunks(FPS, 6)]), FRAMES[[0, 1, 3, 4, 5, 6]])
    assert torch.equal(torch.cat([*footage.chunks(Fraction(60), 66)])[-4:], FRAMES[[31, 32, 32, 32]])
    assert torch.equal(torch.cat([*VideoSource(FRAMES).chunks(FPS, 9)]), FRAMES[:9])


def test_a_video_of_any_length_is_kept_by_the_nearest_clip():
    """Clips have 8 k + 1 frames: the last picture stays for those that lack, and eight would be another clip."""
    short, clip = VideoSource(FRAMES[:26]), ClipShape(64, 64, 33, FPS)
    check_length(short, clip)
    assert torch.equal(torch.cat([*short.chunks(FPS, 33)]), torch.cat((FRAMES[:26], FRAMES[25:26].repeat(7, 1, 1, 1))))
    with pytest.raises(SettingError, match="25 frames"):
        check_length(VideoSource(FRAMES[:25]), clip)


def test_a_reference_is_as_small_and_as_sparse_as_its_lora_wants_it():
    encode, ramp = Seen(), torch.linspace(0, 1, 33).view(-1, 1, 1, 1).expand(-1, 64, 128, 3)
    shape = ClipShape(128, 64, 33, FPS)
    (item,) = encoded(ReferenceVideo(VideoSource(ramp), 2, 4, 0.5, 0.25), shape=shape, encode=encode)
    assert isinstance(item, ReferenceVideoTokens) and (item.downscale, item.temporal_scale, item.strength) == (
        2,
        4,
        0.5,
    )
    shown = encode.pixels[0][0, 0, :, 0, 0]
    assert encode.pixels[0].shape[3:] == (32, 64)
    assert_close(shown, 2 * ramp[[0, *range(1, 32, 4)], 0, 0, 0] - 1)
    assert apply_conditions(latents.empty(shape), FPS, [item]).appended == (2 * 1 * 2, 0)


def test_a_mask_of_a_reference_counts_in_its_cells():
    mask = torch.zeros(1, 64, 96)
    mask[:, :, 48:] = 1
    (item,) = encoded(ReferenceVideo(VideoSource(FRAMES), mask=mask))
    assert item.attention.shape == (5, 2, 3)
    assert item.attention[0].tolist() == [[0, 0.5, 1], [0, 0.5, 1]]


def test_a_mask_of_a_reference_may_be_at_the_rate_of_the_clip():
    """Officially it is, also of a reference of every second frame: a cell is the mean of 16 frames. More are cut."""
    mask = torch.arange(40.0)[:, None, None].expand(40, 64, 96) / 40
    (item,) = encoded(ReferenceVideo(VideoSource(FRAMES), temporal_scale=2, mask=mask))
    assert_close(item.attention[:, 0, 0] * 40, torch.tensor([0, 8.5, 24.5]))


def test_what_is_filled_is_that_of_the_official_nodes():
    """Numbers of ComfyUI-LTXVideo's LTXVDilateVideoMask and LTXVInpaintPreprocess; their inputs are drawn here."""
    recorded = json.loads((Path(__file__).parents[1] / "golden" / "test_vectors_fill.json").read_text())
    draw = partial(torch.rand, generator=torch.Generator().manual_seed(recorded["seed"]))
    frames, soft = draw(9, 32, 64, 3), draw(9, 32, 64)
    for case in recorded["cases"]:
        mask = soft * case["times"]
        encode = Seen()
        reference = ReferenceVideo(
            VideoSource(frames), fill=mask, grow=case["spatial_radius"], grow_frames=case["temporal_radius"]
        )
        encoded(reference, shape=ClipShape(64, 32, 9, FPS), encode=encode)
        grown = grow(mask, case["spatial_radius"], case["temporal_radius"])
        shown = (encode.pixels[0][0].movedim(0, -1) + 1) / 2
        for kind, ours in (("mask", grown), ("image", shown)):
            compare(f"fill of a reference ({kind})", ours.flatten()[::211], torch.tensor(case[kind]))
        assert 0 < grown.mean() < 1


def test_what_is_filled_goes_with_its_frames():
    """Where they are read in pieces, and where only every second one is shown."""
    fill = torch.zeros(17, 64, 96)
    fill[9, :, :32] = 1
    encode = Seen()
    reference = ReferenceVideo(VideoSource(FRAMES[:17]), 1, 2, fill=fill)
    encoded(reference, shape=ClipShape(96, 64, 17, FPS), encode=encode)
    green = torch.tensor(GREEN) / 255 * 2 - 1
    shown = encode.pixels[0][0]
    assert_close(shown[:, 5, :, :32], green.view(3, 1, 1).expand(3, 64, 32))  # frames 0, 1, 3, 5, 7, 9
    assert_close(shown[:, 5, :, 32:], FRAMES[9].movedim(-1, 0)[:, :, 32:] * 2 - 1)
    assert_close(shown[:, 4], FRAMES[7].movedim(-1, 0) * 2 - 1)
    chunks = list(FRAMES[:17].movedim(-1, 0)[None].split(8, dim=2))
    pieces = torch.cat([*paint(chunks, fill)], dim=2)
    assert_close(pieces, torch.cat([*paint([torch.cat(chunks, dim=2)], fill)], dim=2))
    with pytest.raises(SettingError, match="16 masks, and 17 frames"):
        encoded(ReferenceVideo(VideoSource(FRAMES), fill=fill[1:]), shape=ClipShape(96, 64, 17, FPS))


@pytest.mark.parametrize(
    ("place", "margin", "inner"),
    [
        ("around", 0.0, (48, 0, 64, 64)),
        ("left", 0.0, (96, 0, 64, 64)),
        ("right", 0.5, (0, 16, 32, 32)),
        ("top", 0.5, (64, 32, 32, 32)),
        ("bottom", 0.5, (64, 0, 32, 32)),
    ],
)
def test_what_lies_around_a_reference_is_painted(place, margin, inner):
    """A square in a clip of 160 x 64; what is filled of the square stays where it is in it."""
    square, fill, encode = FRAMES[:9, :, :64], torch.zeros(1, 64, 64), Seen()
    fill[:, :, :16] = 1
    reference = ReferenceVideo(VideoSource(square), outpaint=place, margin=margin, fill=fill)
    shape = ClipShape(160, 64, 9, FPS)
    encoded(reference, shape=shape, encode=encode)
    left, top, width, height = inner
    shown, green = encode.pixels[0][0], (torch.tensor(GREEN) / 255 * 2 - 1).view(3, 1, 1, 1)
    free = torch.ones(64, 160, dtype=torch.bool)
    free[top : top + height, left + width // 4 : left + width] = False
    is_green = torch.isclose(shown, green.expand_as(shown), atol=1e-6).all(0)
    assert torch.equal(is_green, free.expand(9, -1, -1))
    inside = shown[:, :, top : top + height, left + width // 4 : left + width]
    assert_close(inside, fit(square, width, height)[0, :, :, :, width // 4 :])


def test_blended_frames_are_those_of_the_official_node():
    """Numbers of ComfyUI-LTXVideo's LTXVLaplacianPyramidBlend; its inputs are drawn here."""
    recorded = json.loads((Path(__file__).parents[1] / "golden" / "test_vectors_blend.json").read_text())
    draw, cases = partial(torch.rand, generator=torch.Generator().manual_seed(recorded["seed"])), recorded["cases"]
    for pair in zip(cases[::2], cases[1::2]):
        height, width = pair[0]["size"]
        made, kept, mask = draw(3, height, width, 3), draw(3, height, width, 3), torch.zeros(3, height, width)
        mask[:, height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
        mask[1:, :, : width // 4] = draw(2, height, width // 4)
        for case in pair:
            wide = widen(mask, case["radius"])
            compare("mask of a blend", wide.flatten()[::101], torch.tensor(case["mask"]))
            compare("blended frames", blend(made, kept, wide).flatten()[::211], torch.tensor(case["image"]))


def test_a_blended_clip_is_the_reference_far_from_what_was_made_anew():
    """In pieces of any size; at the double size, where the reference has ended, and where no part was made anew."""
    fill, made = torch.zeros(1, 64, 96), 1 - FRAMES
    fill[:, :, :16] = 1
    given = [Picture(FRAMES[:1]), ReferenceVideo(VideoSource(FRAMES[:9]), fill=fill)]
    whole, pieces = (
        torch.cat([*Blending(0).frames(chunks, given, FPS)]) for chunks in ([made], made.split((7, 1, 25)))
    )
    assert torch.equal(whole, pieces) and torch.equal(whole[9:], made[9:])
    assert (whole[:9, :, 64:].mean() - FRAMES[:9, :, 64:].mean()).abs() < 2e-3
    assert (whole[:9, :, :8].mean() - made[:9, :, :8].mean()).abs() < 0.02
    assert_close(whole[:9, 8:-8, -16:], FRAMES[:9, 8:-8, -16:], atol=0.05, rtol=0)
    large = torch.zeros(9, 128, 192, 3)
    assert torch.cat([*Blending(2).frames([large], grown(given, Fraction(2)), FPS)]).shape == large.shape
    with pytest.raises(SettingError, match="nothing to blend"):
        list(Blending().frames([made], [ReferenceVideo(VideoSource(FRAMES))], FPS))


def test_a_mask_fades_out_in_cells():
    shape, mask = ClipShape(160, 32, 9, FPS), torch.zeros(1, 32, 160)
    mask[:, :, 64:96] = 1
    for feather, expected in ((0, [0, 0, 1, 0, 0]), (1, [0, 0.5, 1, 0.5, 0]), (3, [0.5, 0.75, 1, 0.75, 0.5])):
        picture, sound = encoded(InpaintMask(mask, feather), shape=shape)
        assert isinstance(picture, Inpaint) and picture.mask[0, 0, 0, 0].tolist() == expected
        assert isinstance(sound, Frozen) and sound.stream == "audio"
    assert (
        len(encoded(InpaintMask(mask, sound=True), shape=shape))
        == len(encoded(InpaintMask(mask), streams=["video"]))
        == 1
    )


def test_a_retake_of_one_stream_keeps_the_other():
    both, picture = encoded(RetakeRange(0, 1)), encoded(RetakeRange(0, 1, "picture"))
    assert [(type(item), item.stream) for item in both] == [(Retake, "video"), (Retake, "audio")]
    assert [(type(item), item.stream) for item in picture] == [(Retake, "video"), (Frozen, "audio")]
    assert len(encoded(RetakeRange(0, 1), streams=["video"])) == 1


def test_a_sound_is_cut_or_filled_with_silence_and_said_to_be():
    short, long = AudioSource(SOUND.waveform[:, :20_000], 24_000), SOUND
    assert short.lasting(CLIP).shape == long.lasting(CLIP).shape == (2, 33_000)
    assert torch.equal(short.lasting(CLIP)[:, :20_000], short.waveform) and not short.lasting(CLIP)[:, 20_000:].any()
    assert torch.equal(long.lasting(CLIP), long.waveform[:, :33_000])
    (said,) = short.findings(CLIP)
    assert "lasts 0.83 s, and the clip 1.38 s: the rest is filled with silence" in str(said)
    assert long.findings(CLIP) == []


def test_pictures_that_a_clip_cannot_show_are_told():
    def picture(count: int, frame: int, append: bool = False) -> Picture:
        return Picture(torch.zeros(count, 4, 4, 3), frame, append=append)

    shown = [picture(1, 0), picture(9, 0), picture(33, 0), picture(17, 16), picture(1, 0, append=True), picture(1, 5)]
    assert [not_shown([each], 33) for each in shown] == [[]] * len(shown)
    for given, count in (picture(2, 0), 1), (picture(60, 0), 33), (picture(9, -1), 1), (picture(17, 20), 9):
        (said,) = not_shown([given], 33)
        assert f"Of {len(given.image)} pictures at frame {given.frame} {count} can be shown" in said
        assert encoded(given)[0].latent.shape[2] == (count + 7) // 8
    (said,) = not_shown([picture(1, 0), picture(1, -33)], 33)
    assert "2 pictures are given for the first frame" in said


def test_a_clip_keeps_one_sound_and_one_video():
    """Of two, the clip would carry the first one, and its picture be made for the last one."""
    sounds = (KeepAudio(SOUND), KeepAudio(SOUND))
    assert chained(sounds[:1], [RetakeRange(0, 1)]) == (sounds[0], RetakeRange(0, 1))
    for refuse in (lambda: chained(sounds), lambda: ltx2.Request("a ball", conditions=sounds)):
        with pytest.raises(SettingError, match="2 sounds, and keeps one: leave the others out"):
            refuse()


def test_a_clip_that_is_longer_than_its_beginning_goes_on():
    shape = ClipShape(96, 64, 49, FPS)
    state = measure_conditions(
        [InitClip(VideoSource(FRAMES), AudioSource(SOUND.waveform[:, :33_000], 24_000))], shape, STREAMS
    ).state
    assert state.video.mask.view(7, 6)[:, 0].tolist() == [0] * 5 + [1] * 2
    assert state.audio.mask.sum() == 51 - 34
    same = measure_conditions([InitClip(VideoSource(FRAMES))], CLIP, STREAMS).state
    assert same.video.is_free and same.audio.is_free


def test_what_will_be_given_is_known_before_anything_is_encoded():
    conditions = [
        Picture(FRAMES[:1], 16),
        Picture(FRAMES[:9], -9),
        ReferenceVideo(VideoSource(FRAMES)),
        ReferenceAudio(SOUND),
        KeepAudio(SOUND),
    ]
    ahead = measure_conditions(conditions, CLIP, STREAMS)
    assert (ahead.pictures, ahead.sound) == ((5, 2, 3), 51) and ahead.state.free == ["video"]
    assert sampled_size(ahead.state, []) == LatentSize((5, 2, 3), 34, 1, ((1 + 2 + 5) * 6, 51))


@pytest.mark.parametrize(("frame", "count"), [(0, 1), (16, 1), (-1, 1), (8, 17), (-9, 9)])
def test_pictures_stay_at_their_seconds_at_twice_the_frame_rate(frame, count):
    twice = ClipShape(96, 64, 65, 2 * FPS)
    times = []
    pictures = [Picture(FRAMES[:count], frame)]
    for shape, given in ((CLIP, pictures), (twice, at_rate(pictures, twice, 2))):
        (item,) = encoded(*given, shape=shape)
        state = replace(item, append=True)(State.of(torch.zeros(1, 128, *shape.video_latent), shape.fps))
        shown = state.positions[0, 0, state.count :]
        times.append((float(shown[0, 0]), float(shown[-1, 1]) - float(1 / shape.fps)))
    assert times[0] == pytest.approx(times[1], abs=1e-6)


def test_videos_and_masks_stay_at_their_seconds_at_twice_the_frame_rate():
    twice, mask = ClipShape(96, 64, 65, 2 * FPS), torch.rand(33, 64, 96)
    given = [KeepVideo(VideoSource(FRAMES)), InpaintMask(mask), KeepAudio(SOUND), RetakeRange(0, 1)]
    assert at_rate(given, CLIP, 1) is given
    video, area, *others = at_rate(given, twice, 2)
    assert torch.equal(torch.cat([*video.video.chunks(2 * FPS, 65)])[::2], FRAMES) and others == given[2:]
    assert torch.equal(area.mask[::2], mask) and len(area.mask) == 65


PICTURE, AREA = FRAMES[:1], torch.rand(1, 64, 96)


@pytest.mark.parametrize(
    ("give", "numbers"),
    [
        (lambda x: Picture(x), PICTURE),
        (lambda x: VideoSource(x), FRAMES),
        (lambda x: InpaintMask(x), AREA),
        (lambda x: ReferenceVideo(VideoSource(FRAMES), mask=x), AREA),
        (lambda x: ReferenceVideo(VideoSource(FRAMES), fill=x), AREA),
        (lambda x: AudioSource(x, 24_000), SOUND.waveform),
    ],
    ids=["picture", "video", "mask", "mask of a reference", "fill of a reference", "sound"],
)
@pytest.mark.parametrize("fault", ["nan", "infinite", "of 8 bits", "a mere shape"])
def test_numbers_that_are_none_or_mean_something_else_are_told_where_they_come_in(give, numbers, fault):
    """Not after the work, as a damaged checkpoint."""
    wrong = numbers.clone()
    wrong.view(-1)[7] = {"nan": torch.nan, "infinite": -torch.inf}.get(fault, 0.3)
    wrong = {"of 8 bits": wrong * 255, "a mere shape": wrong.to("meta")}.get(fault, wrong)
    words = {"of 8 bits": r"values from .*, where .* 1.* is meant", "a mere shape": "no numbers that can be read"}
    with pytest.raises(SettingError, match="(picture|video|mask|sound).*" + words.get(fault, "NaN or infinite")):
        give(wrong)
    give(numbers * 1.2 - 0.1)  # as resizing leaves them


def test_a_voice_of_hours_is_refused():
    with pytest.raises(SettingError, match=r"lasts 16000 s, at most \d+ s are heard"):
        encoded(ReferenceAudio(AudioSource(torch.zeros(2, 16_000), 1)))


# Windows


def test_a_window_has_what_is_given_in_its_time():
    shape, windows = ClipShape(32, 32, 97, FPS), split_windows(97, FPS, 33, 16)
    voice = AudioSource(SOUND.waveform[:, :24_000], 24_000)
    conditions = [
        Picture(FRAMES[:1], 40),
        ReferenceVideo(VideoSource(FRAMES.repeat(3, 1, 1, 1))),
        ReferenceAudio(voice),
    ]
    whole = measure_conditions(conditions, shape, STREAMS).state
    assert len(windows) == 5
    for window in windows:
        part, start = window.video, window.frames.start / 24
        fresh = State.of(torch.zeros(1, 128, part.stop - part.start, 1, 1), FPS)
        here = WithinWindow("video", whole.video, window)(fresh)
        times = here.positions[0, 0, here.count :] + start
        assert (times[:, 1] > start).all() and (times[:, 0] < window.frames.stop / 24).all()
        pictures = torch.isclose(times[:, 0], torch.tensor(40 / 24)) & torch.isclose(times[:, 1], torch.tensor(41 / 24))
        assert pictures.sum() == (40 in window.frames)
        fresh = State.of(torch.zeros(1, 8, window.audio.stop - window.audio.start, 16), FPS)
        heard = WithinWindow("audio", whole.audio, window)(fresh)
        assert len(heard.positions[0, 0]) - heard.count == 26 and heard.positions[0, 0, heard.count :].max() < 0
    assert sampled_size(whole, windows).video == (5, 1, 1)


def test_a_fingerprint_tells_tensors_and_settings_apart():
    values = [
        1,
        1.0,
        "1",
        None,
        torch.ones(2),
        torch.ones(2, 1),
        torch.zeros(2),
        (1, 2),
        ((1,), 2),
        Guidance(2),
        Guidance(3),
    ]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint(torch.ones(2), Guidance(2)) == fingerprint(torch.ones(2), Guidance(2))


# Whole clips


@pytest.fixture(scope="module")
def models(tiny_files):
    checkpoint, gemma, _ = tiny_files("2.3")
    return ltx2.open_models(checkpoint, gemma)


@pytest.fixture(scope="module")
def miniature():
    return ltx2.open_models("miniature")


def make(models, *conditions, frames=33, **more) -> ltx2.Clip:
    size = {"width": 96, "height": 64, "frames": frames, "steps": 2, "video": Guidance(), "audio": Guidance()}
    return ltx2.generate(models, "x", conditions=conditions, **size | more)


@pytest.mark.slow
def test_a_given_sound_is_heard_as_it_is(models):
    short = AudioSource(SOUND.waveform[:1, :20_000], 24_000)
    said = []
    clip = make(models, KeepAudio(short, noise=0.2), on_finding=said.append)
    assert clip.sample_rate == 24_000 and torch.equal(clip.waveform[:, :20_000], short.waveform)
    assert clip.waveform.shape == (1, 33_000) and not clip.waveform[:, 20_000:].any()
    assert any("filled with silence" in str(each) for each in said)


@pytest.mark.slow
def test_a_given_film_is_seen_as_it_is(models):
    larger = torch.rand(40, 70, 100, 3)
    clip = make(models, KeepVideo(VideoSource(larger)))
    assert torch.equal(clip.frames, larger[:33]) and clip.waveform.abs().max() > 0


@pytest.mark.slow
def test_sound_alone_has_no_picture(models):
    clip = make(models, sound_only=True)
    assert list(clip.chunks) == [] and clip.latent.video is None and clip.waveform.shape == (2, 66_000)


@pytest.mark.slow
def test_a_clip_with_everything_given_is_the_same_on_a_small_card(models, monkeypatch):
    """Encoders are planned and streamed like all networks; appended tokens are part of the plan."""
    planned, follow = [], LocalEngine.follow
    monkeypatch.setattr(LocalEngine, "follow", lambda self, plan: planned.append(plan) or follow(self, plan))
    conditions = [Picture(FRAMES[:1]), Picture(FRAMES[:1], -1), ReferenceVideo(VideoSource(FRAMES)), KeepAudio(SOUND)]
    whole, limited = make(models, *conditions), make(models, *conditions, vram=2**30, device="cpu", cache=False)
    assert torch.equal(whole.latent.video, limited.latent.video)
    stages = {placement.need.name: placement for placement in planned[-1].placements}
    assert [*stages][3:6] == ["pictures", "hearing", "sampling"]
    make(models, KeepAudio(SOUND), vram=2**30, device="cpu", cache=False)
    (fewer,) = (placement for placement in planned[-1].placements if placement.need.name == "sampling")
    assert fewer.need.work_bytes < stages["sampling"].need.work_bytes


@pytest.mark.slow
def test_a_given_stream_needs_no_passes(models, monkeypatch):
    """Neither where the clip is planned nor in either of its two steps."""
    counted, planned, follow = [], [], LocalEngine.follow
    denoise = import_module("ltx2_core.sampling.denoiser")
    monkeypatch.setattr(denoise, "passes_needed", lambda guidance, *more: counted.append([*guidance]) or ["cond"])
    monkeypatch.setattr(LocalEngine, "follow", lambda self, plan: planned.append(plan) or follow(self, plan))
    make(models, KeepAudio(SOUND), audio=Guidance(7, 3))
    (sampling,) = (stage.sampling for stage in planned[0].stages if stage.name == "sampling")
    assert sampling.guidance.rows == (Guidance(), Guidance())
    assert counted == 2 * [[Guidance(), Guidance()]]


@torch.inference_mode()
@pytest.mark.slow
def test_what_lies_outside_a_retake_is_the_round_trip_through_the_vae(miniature):
    """The latents to the bit; frames and samples from where the decoders no longer see what is new."""
    source = make(miniature, frames=121)
    frames, sound, cpu = source.frames, AudioSource(source.waveform, source.sample_rate), torch.device("cpu")
    new = make(miniature, InitClip(VideoSource(frames), sound), RetakeRange(4, 4.5), frames=121, seed=3)

    video_encoder, video_decoder, audio_encoder, audio_decoder, vocoder = (
        ltx2.build(miniature, name, torch.float32)
        for name in ("video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder")
    )
    video = encode_video(video_encoder, [fit(frames, 96, 64)], 121, cpu)
    kept = [*range(12), 15]  # of 16 latents; the others touch 4 to 4.5 s
    assert torch.equal(new.latent.video[:, :, kept], video[:, :, kept])
    assert not torch.equal(new.latent.video[:, :, 12:15], video[:, :, 12:15])
    trip = torch.cat([chunk[0] for chunk in decode_video(video_decoder, video)])
    difference = (new.frames - trip).abs().amax((1, 2, 3))
    assert difference[:40].max() <= 1e-6 and difference[96:108].min() > 1e-3

    audio = encode_audio(audio_encoder, sound.waveform, sound.sample_rate, cpu, 126)
    assert torch.equal(new.latent.audio[:, :, :100], audio[:, :, :100])
    assert torch.equal(new.latent.audio[:, :, 114:], audio[:, :, 114:])
    heard = vocode(vocoder, decode_audio(audio_decoder, audio), 121_000)[0]
    difference = (new.waveform - heard).abs().amax(0)
    assert difference[:95_000].max() <= 1e-6 and difference[97_000:107_000].max() > 1e-4


@pytest.mark.slow
def test_a_long_clip_that_was_interrupted_goes_on_where_it_was(models, tmp_path):
    def run(folder, stop=None):
        steps = []

        def report(stage, done, total):
            if stage == "sampling":
                steps.append((done, total))
                if len(steps) == stop:
                    raise InterruptedError

        conditions = [
            Picture(torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(2)), 40),
            KeepAudio(SOUND),
        ]
        settings = {
            "windowing": Windowing(33, 16, drift_control=0.5),
            "segments": [Segment(1.5, "y")],
            "resume": folder,
        }
        return make(models, *conditions, frames=65, on_progress=report, **settings).latent, steps

    whole, steps = run(tmp_path / "one")
    assert steps == [(done, 6) for done in range(1, 7)]
    with pytest.raises(InterruptedError):
        run(tmp_path / "two", stop=4)
    resumed, rest = run(tmp_path / "two")
    again, nothing = run(tmp_path / "two")
    assert rest == steps[2:] and nothing == []
    for latent in (resumed, again):
        assert torch.equal(latent.video, whole.video) and torch.equal(latent.audio, whole.audio)


# What cannot be


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ((Picture(FRAMES[:1], -1), Picture(FRAMES[1:2], 32)), "Two pictures are given at frame 32"),
        (Picture(FRAMES[:1], 40), "A picture is given at frame 40, but the clip has 33 frames"),
        (
            KeepVideo(VideoSource(FRAMES[:20])),
            "has 20 frames at 24 fps, the clip 33: make the clip 17 frames long",
        ),
        (RetakeRange(2, 3), "from 2 s to 3 s, but the clip ends at 1.38 s"),
        (InpaintMask(torch.ones(20, 64, 96)), "The mask has 20 frames; it needs 1, or 33 as the clip"),
        (InpaintMask(torch.zeros(1, 64, 96)), "The mask is empty"),
        (
            ReferenceVideo(VideoSource(FRAMES), 2),
            "width and height of the clip must be multiples of 64; it has 96 x 64",
        ),
        ((KeepAudio(SOUND), KeepVideo(VideoSource(FRAMES))), "Nothing is left to make"),
    ],
)
def test_what_cannot_be_given_is_said_before_anything_is_read(models, monkeypatch, conditions, sentence):
    monkeypatch.setattr("ltx2_core.pipeline.prepare.build", None)
    with pytest.raises(ValueError, match=sentence):
        make(models, *(conditions if isinstance(conditions, tuple) else [conditions]))


@pytest.mark.parametrize(("start", "end"), [(1, 1), (2, 1), (float("nan"), 1), (0, float("nan"))])
def test_a_range_to_retake_ends_after_its_beginning(start, end):
    with pytest.raises(SettingError, match="it must end after its beginning"):
        RetakeRange(start, end)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        (SoundPart(3), r"start is 3 s.* lasts 2\.00 s: begin earlier"),
        (SoundPart(0.1, 0.00001), "seconds is 1e-05.* more"),
    ],
)
def test_a_part_that_is_nothing_of_a_sound_is_told_with_what_is_wrong(part, wrong):
    with pytest.raises(SettingError, match=wrong):
        audio_source({"waveform": torch.zeros(1, 2, 16000), "sample_rate": 8000}, part)
