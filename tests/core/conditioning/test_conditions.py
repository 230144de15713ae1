"""What people give becomes items at any size, and what they gave comes back as they gave it."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from conditions import CLIP, FPS, FRAMES, SOUND, Seen, encoded
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core import latents
from ltx2_core.conditioning import Frozen, Inpaint, Keyframe, ReferenceVideoTokens, Retake, State, apply_conditions
from ltx2_core.conditioning.conditions import (
    InitClip,
    InpaintMask,
    KeepAudio,
    KeepVideo,
    ReferenceAudio,
    ReferenceVideo,
    RetakeRange,
)
from ltx2_core.conditioning.kept import chained, not_shown
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.preprocess import fit
from ltx2_core.conditioning.rate import at_rate
from ltx2_core.conditioning.sources import AudioSource, SoundPart, VideoSource, check_length
from ltx2_core.disk_cache import fingerprint
from ltx2_core.errors import DoesNotFitError, SettingError
from ltx2_core.geometry import ClipShape
from ltx2_core.latents import STREAMS
from ltx2_core.pipeline.encode_conditions import measure_conditions
from ltx2_core.pipeline.graph.codec import audio_source
from ltx2_core.pipeline.long import WithinWindow, sampled_size
from ltx2_core.pipeline.stage import LatentSize
from ltx2_core.sampling import Guidance
from ltx2_core.sampling.windows import split_windows

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


@pytest.mark.parametrize(
    "length, scale, latents_of", [(32, 2, 3), (16, 2, 2), (31, 2, 2), (32, 4, 2), (33, 4, 2), (25, 3, 2)]
)
def test_a_sparse_reference_is_taken_as_far_as_it_reaches(length, scale, latents_of):
    """As officially: its first frame, then each of so many from the second on, as far as they fill latents."""
    encode, ramp = Seen(), torch.linspace(0, 1, 33).view(-1, 1, 1, 1).expand(-1, 64, 96, 3)
    mask = torch.arange(40.0)[:, None, None].expand(40, 64, 96)[:length] / 40
    (item,) = encoded(ReferenceVideo(VideoSource(ramp[:length]), 1, scale, mask=mask), encode=encode)
    taken = [0, *range(1, length, scale)][: 8 * latents_of - 7]
    assert_close(encode.pixels[0][0, 0, :, 0, 0], 2 * ramp[taken, 0, 0, 0] - 1)
    assert item.latent.shape[2] == len(item.attention) == latents_of and taken[-1] + scale >= length - 8 * scale


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


@pytest.mark.parametrize("change", [RetakeRange(0, 1), RetakeRange(0, 1, "sound"), InpaintMask(torch.ones(1, 64, 96))])
def test_the_sound_of_a_clip_without_one_is_made_as_a_whole(change):
    """As officially: there is nothing of it to keep, where a part of the picture is made anew."""

    def free(audio):
        state = apply_conditions(latents.empty(CLIP), FPS, encoded(InitClip(VideoSource(FRAMES), audio), change))
        return state.audio.is_free

    assert free(None) and not free(SOUND)


def test_a_sound_is_cut_or_filled_with_silence_and_said_to_be():
    short, long = AudioSource(SOUND.waveform[:, :20_000], 24_000), SOUND
    assert short.lasting(CLIP).shape == long.lasting(CLIP).shape == (2, 33_000)
    assert torch.equal(short.lasting(CLIP)[:, :20_000], short.waveform) and not short.lasting(CLIP)[:, 20_000:].any()
    assert torch.equal(long.lasting(CLIP), long.waveform[:, :33_000])
    slow = AudioSource(torch.ones(2, 9), 1)  # which has not one sample in a clip of a frame
    assert slow.lasting(replace(CLIP, frames=1)).tolist() == [[1], [1]]
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


@pytest.mark.parametrize("frame", [CLIP.frames, -CLIP.frames - 1])
def test_a_picture_outside_the_clip_is_refused_by_the_frame_that_was_given_and_not_its_double(frame):
    with pytest.raises(SettingError, match=f"given at frame {frame}, but the clip has {CLIP.frames} frames"):
        at_rate([Picture(FRAMES[:1], frame)], ClipShape(96, 64, 65, 2 * FPS), 2)


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
@pytest.mark.parametrize("fault", ["nan", "infinite", "of 8 bits", "a mere shape", "an axis more"])
def test_numbers_that_are_none_or_mean_something_else_are_told_where_they_come_in(give, numbers, fault):
    """Not after the work, as a damaged checkpoint."""
    wrong = numbers.clone()
    wrong.view(-1)[7] = {"nan": torch.nan, "infinite": -torch.inf}.get(fault, 0.3)
    faulty = {"of 8 bits": wrong * 255, "a mere shape": wrong.to("meta"), "an axis more": numbers[None]}
    wrong = faulty.get(fault, wrong)
    words = {"of 8 bits": r"values from .*, where .* 1.* is meant", "a mere shape": "no numbers that can be read"}
    words["an axis more"] = r"the shape \(1, .*\), where \(.*\) is meant"
    with pytest.raises(SettingError, match="(picture|video|mask|sound).*" + words.get(fault, "NaN or infinite")):
        give(wrong)
    give(numbers * 1.2 - 0.1)  # as resizing leaves them


def test_pictures_have_three_channels():
    with pytest.raises(SettingError, match=r"the shape \(1, .*, 4\), where \(frames, height, width, 3\) is meant"):
        Picture(PICTURE[..., [0, 1, 2, 0]])


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


# What cannot be


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


def test_of_several_sounds_none_is_taken_without_a_word():
    with pytest.raises(SettingError, match="holds 2 sounds, and one is meant: connect a single one"):
        audio_source({"waveform": torch.zeros(2, 2, 16000), "sample_rate": 8000})


def test_a_clip_whose_latents_alone_do_not_fit_is_refused_before_they_are_made():
    with pytest.raises(DoesNotFitError, match=r"4096 x 4096 pixels and 2881 frames needs about 969\.1 GB of RAM"):
        measure_conditions([], ClipShape(4096, 4096, 2881, Fraction(24)), STREAMS, batch=64)


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        (torch.zeros(1, 8, 8, 3, dtype=torch.complex64), "numbers of the kind complex64, which are not read"),
        (torch.zeros(1, 8, 8, 3).to(torch.float8_e4m3fn), "the kind float8_e4m3fn"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint16), "the kind uint16"),
        (torch.quantize_per_tensor(torch.zeros(1, 8, 8, 3), 0.1, 0, torch.quint8), "the kind quint8"),
        (torch.zeros(1, 8, 8, 3).to_sparse(), "sparse, nested or a mere shape"),
        (torch.nested.nested_tensor([torch.zeros(8, 8, 3)]), "sparse, nested or a mere shape"),
        (torch.zeros(0, 8, 8, 3), "no pixel"),
        (torch.zeros(1, 0, 8, 3), "no pixel"),
    ],
)
def test_tensors_that_hold_no_pictures_are_told(given, fact):
    for take in (Picture, VideoSource):
        with pytest.raises(SettingError, match=fact):
            take(given)


def test_a_picture_may_be_of_whole_numbers_and_a_video_of_what_was_trained():
    kinds = (torch.float32, torch.float16, torch.uint8, torch.int64, torch.bool)
    white = []
    for kind in kinds:
        encoded(Picture(torch.ones(1, 64, 96, 3).to(kind)), encode=(encode := Seen(crf=33)))
        white.append(encode.pixels[0])
    assert all(torch.equal(each, white[0]) for each in white)
    trained = torch.rand(9, 64, 96, 3, requires_grad=True)
    assert not next(VideoSource(trained).chunks(FPS, 9)).requires_grad
