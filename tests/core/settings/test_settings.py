"""Settings of a run: a request is built from names, held to limits, and completed by a recipe."""

import re
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from ltx2_core.conditioning import Frozen
from ltx2_core.conditioning.conditions import KeepAudio, ReferenceVideo, RetakeRange
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.sources import AudioSource, VideoSource
from ltx2_core.errors import SettingError
from ltx2_core.fields import did_you_mean, settings_from, settings_of
from ltx2_core.geometry import ClipShape
from ltx2_core.lora import Lora, Strengths
from ltx2_core.sampling import Guidance, GuidanceBySigma, ScheduleSettings, StreamGuidance, recipe_for
from ltx2_core.sampling.windows import Segment, Windowing
from ltx2_core.settings import (
    ClipSettings,
    LongClip,
    OwnClipSettings,
    RecipeSettings,
    Request,
    Resources,
    SamplingSettings,
    SecondStage,
    check_limits,
    given_negative,
    scheduled,
)
from ltx2_core.settings.variations import Variations, read_seeds
from ltx2_core.upscaler import UpscalerConfig
from ltx2_core.video_vae import Tiling

DEV = recipe_for("2.3", 48)
DISTILLED = recipe_for("2.3", 48, distilled=True)
HQ = recipe_for("2.3", 48, hq=True)
OWNED = [ClipSettings, SamplingSettings, SecondStage, Resources]


class Enlarging:
    """An upscaler file, as far as sizes go."""

    def __init__(self, space=2, time=1):
        self.config = UpscalerConfig(space=Fraction(space), time=time)


@pytest.mark.parametrize("owner", OWNED)
def test_every_setting_has_limits_and_whole_sentences(owner):
    for setting in settings_of(owner).values():
        assert setting.text.endswith(".") and setting.text[0].isalpha()
        setting.check(setting.default if not isinstance(setting.default, tuple) else None)
    free = {"upscalers", "tiles", "lora", "detailing_lora", "guidance"}
    assert {field.name for field in fields(owner)} - free == settings_of(owner).keys()


def test_a_request_without_settings_is_the_recipe():
    whole = Request.of("a red ball").completed(DEV)
    assert whole.shape == whole.final == ClipShape(DEV.width, DEV.height, DEV.frames, Fraction(24))
    assert whole.sigmas == DEV.sigmas() and whole.sampler == DEV.sampler and whole.negative == DEV.negative
    assert whole.guidance == DEV.guidance and whole.refine == DEV.refine and whole.streams == ("video", "audio")
    assert whole.script == (Segment(0, "a red ball"),) and whole.windows == () and whole.loras == ()
    assert whole.unread == ()
    assert not whole.second.refine and not whole.held


def test_flat_names_find_their_place():
    own = Guidance(text_scale=2)
    request = Request.of(
        "x", "y", width=1024, seconds=2, fps="24000/1001", sound_only=True, seed=7, steps=5, sampler="heun",
        video=own, device=torch.device("cpu"), dtype=torch.bfloat16, vram=2**30, ram=3 * 2**29, cache=False,
        windowing=Windowing(33, 8), segments=[Segment(1, "z")], resume="kept", loras=[], conditions=[], sigmas=None,
    )  # fmt: skip
    assert request.clip == ClipSettings(1024, None, None, Fraction(24000, 1001), 2, streams="sound only")
    assert request.sampling == SamplingSettings(7, "heun") and request.schedule.steps == 5
    assert request.long == LongClip(Windowing(33, 8), (Segment(1, "z"),), "kept")
    resources = request.resources
    assert (resources.vram, resources.ram, resources.dtype) == (2**30, 3 * 2**29, torch.bfloat16)
    assert resources.device == "cpu" and resources.cache is False
    whole = request.completed(DEV)
    assert whole.guidance == StreamGuidance(own, DEV.audio) and whole.negative == "y" and whole.streams == ("audio",)
    assert whole.shape.frames == 49 and len(whole.windows) == len(Windowing(33, 8).windows(49, whole.shape.fps))


def test_segments_alone_make_windows():
    assert Request.of("x", segments=[Segment(1, "y")]).long == LongClip(Windowing(), (Segment(1, "y"),))
    assert Request.of("x", resume="folder").long is None


def test_nothing_means_the_recipe():
    nothing = Request.of(
        "x",
        conditions=None,
        loras=None,
        width=None,
        fps=None,
        steps=None,
        schedule=None,
        sampler=None,
        vram=None,
        dtype=None,
    )
    assert nothing == Request.of("x") == Request("x")
    assert Resources(max_vram=0).vram is None and Resources(max_ram=1.5).ram == 3 * 2**29


@pytest.mark.parametrize(
    ("flat", "facts"),
    [
        ({"widht": 64}, ["widht", "width?"]),
        ({"given": ()}, ["given"]),
        ({"width": 8192}, ["width is 8192", "4096"]),
        ({"steps": 0}, ["steps is 0", "1 and 200"]),
        ({"steps": "20"}, ["steps is '20'", "number"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"sampler": "eular"}, ["'eular'", "euler?"]),
        ({"schedule": "distiled"}, ["'distiled'", "distilled?"]),
        ({"format": "fp4"}, ["'fp4'", "fp8"]),
        ({"dtype": torch.int8}, ["torch.int8", "torch.bfloat16"]),
        ({"fps": "fast"}, ["'fast'"]),
        ({"least_seconds": 5, "most_seconds": 2}, ["least_seconds is 5", "most_seconds 2"]),
        ({"video": Guidance(rescale=2)}, ["rescale is 2"]),
        ({"audio": GuidanceBySigma(((1.0, Guidance(stg_scale=9)),))}, ["stg_scale is 9"]),
        ({"windowing": Windowing(drift_control=2)}, ["drift_control is 2"]),
        ({"second": SecondStage(noise_scale=2)}, ["noise_scale is 2"]),
        ({"second": SecondStage(sound="loud")}, ["'loud'", "hold"]),
    ],
)
def test_what_cannot_be_is_one_sentence(flat, facts):
    with pytest.raises(SettingError) as error:
        Request.of("x", **flat)
    assert all(fact in str(error.value) for fact in facts) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flat", "facts"),
    [
        ({"frames": 120}, ["frames is 120", "121"]),
        ({"width": 100}, ["width is 100", "96"]),
        ({"start_step": 40}, ["Steps 40 to 30"]),
        ({"sigmas": [0.5, 0.7]}, ["after 0.5 comes 0.7"]),
        ({"schedule": "distilled", "steps": 12}, ["steps is 12", "exactly 8"]),
        ({"second": SecondStage((Enlarging(),), refine=False), "width": 96, "height": 128}, ["width is 96", "64"]),
        ({"second": SecondStage(), "segments": [Segment(1, "y")]}, ["one prompt for the whole clip"]),
        ({"motion_speed": 0.2, "windowing": Windowing()}, ["motion_speed is 0.2", "at once"]),
    ],
)
def test_what_does_not_go_together_is_one_sentence(flat, facts):
    with pytest.raises(SettingError) as error:
        Request.of("x", **flat).completed(DEV)
    assert all(fact in str(error.value) for fact in facts) and "\n" not in str(error.value)


def test_a_second_stage_starts_smaller_and_ends_as_asked():
    second = SecondStage((Enlarging(), Enlarging(1, time=2)))
    whole = Request.of("x", width=1024, height=512, frames=33, second=second).completed(DEV)
    assert (whole.shape.width, whole.shape.height, whole.shape.frames, whole.shape.fps) == (512, 256, 33, 24)
    assert (whole.final.width, whole.final.height, whole.final.frames, whole.final.fps) == (1024, 512, 65, 48)
    usual = Request.of("x", second=second).completed(DEV)
    assert (usual.shape.width, usual.shape.height) == (DEV.width, DEV.height)


def test_a_second_stage_changes_its_recipe():
    assert SecondStage().completed(DEV.refine) == DEV.refine
    assert DEV.refine.keeps_sound and not SecondStage(sound="refine").completed(DEV.refine).keeps_sound
    guidance = StreamGuidance(Guidance(2), Guidance(3))
    refine = SecondStage(sigmas=(0.5, 0.25, 0.0), guidance=guidance).completed(DEV.refine)
    assert refine.sigmas == (0.5, 0.25, 0.0) and refine.guidance == guidance
    assert SecondStage(noise_scale=0.5).completed(DEV.refine).sigmas == (0.5, 0.421875, 0.0)
    whole = Request.of("x", second=SecondStage(sound="hold", guidance=guidance)).completed(DISTILLED)
    assert [type(each) for each in whole.held] == [Frozen]
    assert whole.refine.guidance.for_streams({"video"}) == StreamGuidance(Guidance(2))


class Named(Lora):
    """A LoRA that only says whether it is an IC-LoRA."""

    is_in_context = False

    def __init__(self, is_in_context):
        super().__init__(None, {}, ())
        object.__setattr__(self, "is_in_context", is_in_context)


@pytest.mark.parametrize("keeps", [False, True])
def test_an_ic_lora_leaves_with_its_reference(keeps):
    still, shown = torch.zeros(1, 32, 32, 3), ReferenceVideo(VideoSource(torch.zeros(9, 32, 32, 3)))
    style, depth, unnamed = ((Named(known), Strengths()) for known in (False, True, False))
    second = SecondStage(keep_references=keeps)

    def asked(loras, *conditions):
        return Request.of("x", second=second, loras=loras, conditions=conditions).completed(DEV)

    whole = asked((style, depth), Picture(still), shown)
    assert whole.loras == (style, depth) and whole.request.conditions[1] is shown
    assert whole.refine_loras == ((style, depth) if keeps else (style,))
    assert whole.refine_conditions == (whole.request.conditions if keeps else whole.request.conditions[:1])
    assert asked((unnamed,), shown).refine_loras == ((unnamed,) if keeps else ())  # officially all of them leave
    assert asked((style, depth), Picture(still)).refine_loras == (style, depth)


def test_the_pipeline_decides_whose_sound_ships():
    still, video = torch.zeros(1, 32, 32, 3), VideoSource(torch.zeros(9, 32, 32, 3))

    def keeps(*conditions, sound="as the recipe", recipe=DEV):
        return SecondStage(sound=sound).completed(recipe.refine, conditions).keeps_sound

    assert keeps() and keeps(Picture(still)) and keeps(Picture(still), Picture(still, -1)) and keeps(recipe=HQ)
    assert not keeps(recipe=DISTILLED) and not keeps(ReferenceVideo(video))
    assert not keeps(Picture(still, append=True), Picture(still, -1)) and not keeps(sound="refine")


def own_strengths(strengths):
    """The strength of the whole LoRA, and that on the text."""
    return getattr(strengths, fields(strengths)[0].name), strengths.text


@pytest.mark.parametrize(
    ("recipe", "chosen", "strengths"),
    [
        (DEV, {}, (0.0, 1.0)),
        (HQ, {}, (0.25, 0.5)),
        (HQ, {"distilled_lora_strength": 0, "distilled_lora_refine_strength": 0.8}, (0, 0.8)),
        (DISTILLED, {"distilled_lora_strength": 0.3}, (0.3, 0.0)),
    ],
)
def test_the_distilled_lora_has_a_strength_in_each_stage(recipe, chosen, strengths):
    lora = object()
    whole = Request.of("x", second=SecondStage(lora=lora, **chosen)).completed(recipe)
    for stack, strength in zip((whole.loras, whole.refine_loras), strengths):
        assert [(each, *own_strengths(own)) for each, own in stack] == ([(lora, strength, 0)] if strength else [])
    assert Request.of("x", second=SecondStage()).completed(recipe).refine_loras == ()


def test_a_negative_prompt_is_needed_only_where_something_looks_at_it():
    whole = Request.of("x").completed(DEV)
    assert whole.needs_negative({"video", "audio"}) and whole.needs_negative({"audio"})
    assert not whole.needs_negative(set()) and whole.guidance.for_streams(set()) == StreamGuidance()
    plain = Request.of("x", video=Guidance(), audio=Guidance()).completed(DEV)
    assert not plain.needs_negative({"video", "audio"})
    guided = StreamGuidance(Guidance(3), Guidance())
    second = replace(plain, second=SecondStage(), refine=replace(DEV.refine, video=guided.video))
    assert second.needs_negative({"video"}) and not second.needs_negative({"audio"})
    always = Request.of("x", sampler="euler_cfg_pp", video=Guidance(), audio=Guidance()).completed(DEV)
    assert always.needs_negative({"video"})


def test_schedules_follow_the_recipe_where_nothing_is_said():
    tokens = 1000
    assert scheduled(ScheduleSettings(), DEV, tokens) == DEV.sigmas()
    assert scheduled(ScheduleSettings(5), HQ, tokens) == HQ.sigmas(5, tokens=tokens) != DEV.sigmas(5)
    assert scheduled(ScheduleSettings(schedule="beta"), DEV, tokens) == DEV.sigmas(schedule="beta")
    custom = ScheduleSettings(schedule="custom", custom_sigmas="1, 0.5, 0")
    assert scheduled(custom, DEV, tokens) == [1.0, 0.5, 0.0]


def test_schedules_take_what_is_said():
    high, usual = scheduled(ScheduleSettings(4, max_shift=5), DEV, 1000), DEV.sigmas(4)
    assert len(high) == 5 and all(a >= b for a, b in zip(high, usual)) and high != usual
    assert scheduled(ScheduleSettings(4, terminal=0.3), DEV, 1000)[-2] == pytest.approx(0.3)
    part = scheduled(ScheduleSettings(4, denoise=0.5), DEV, 1000)
    assert part == DEV.sigmas(8)[-5:]
    assert len(scheduled(ScheduleSettings(denoise=0.5), DEV, 1000)) == DEV.steps + 1
    assert scheduled(ScheduleSettings(denoise=0.5), DISTILLED, 1000) == DISTILLED.sigmas()
    assert scheduled(ScheduleSettings(4, max_shift=5), HQ, 1000) != high  # its shift depends on the size, too


def test_steps_are_a_part_of_the_schedule():
    whole = Request.of("x", steps=6, start_step=2, end_step=5).completed(DEV)
    assert whole.sigmas == DEV.sigmas(6)[2:6]
    assert Request.of("x", sigmas=[0.8, 0.4], start_step=0).completed(DEV).sigmas == [0.8, 0.4]


def test_limits_hold_in_all_that_a_value_contains():
    check_limits(None)
    check_limits([Guidance(), "words", 5])
    with pytest.raises(SettingError, match="nag_blend is 2"):
        check_limits((Guidance(), Guidance(nag_blend=2)))
    check_limits(Guidance)  # a class is no value


@pytest.mark.parametrize(
    "given",
    [
        {"frames": 33.5}, {"seed": 1.5}, {"seed": True}, {"batch_size": 2.0}, {"steps": torch.tensor(4)},
        {"eta": "1"}, {"width": []}, {"sampler": b"euler"}, {"streams": {}}, {"add_noise": 1}, {"cache": 3},
        {"devices": 2}, {"vram": "12"}, {"ram": 10**400}, {"dtype": []}, {"negative": 5},
        {"tiling": 512}, {"guidance": 3.0}, {"guidance": Guidance()}, {"video": 3.0}, {"second": True}, {"hq": "yes"},
        {"loras": ["style.safetensors"]}, {"loras": 1}, {"conditions": "room.png"}, {"conditions": ["room.png"]},
        {"sigmas": "1, 0"}, {"sigmas": ["1", "0"]}, {"segments": [(1, "a ball")]}, {"windowing": 33}, {"enhance": True},
        {"sound_only": "False"}, {"sound_only": torch.zeros(2)}, {"segments": torch.zeros(2)}, {"dtype": np.zeros(3)},
        {"encoded": ""}, {"conditions": {}}, {"hq": object()},
    ],
    ids=lambda given: next(iter(given)),
)  # fmt: skip
def test_what_is_of_another_kind_is_named_before_anything_is_made(given):
    with pytest.raises(SettingError, match=f"{next(iter(given))} is "):
        Request.of("x", **given)
    with pytest.raises(SettingError, match="tile_size is"):
        Tiling(tile_size="512")


@pytest.mark.parametrize(
    ("wrong", "fact"),
    [
        (lambda: KeepAudio("song.wav"), "audio is 'song.wav'; it must be an AudioSource"),
        (lambda: KeepAudio(None), "audio is 'None'"),
        (lambda: ReferenceVideo("clip.mp4"), "video is 'clip.mp4'"),
        (lambda: Picture("room.png"), "The given picture is str"),
        (lambda: Picture(np.zeros((1, 8, 8, 3))), "The given picture is ndarray"),
        (lambda: KeepAudio(AudioSource(torch.zeros(2, 9), None)), "sample_rate is None"),
        (lambda: KeepAudio(AudioSource(torch.zeros(9), 24000)), "shape (9,)"),
        (lambda: ReferenceVideo(VideoSource(torch.zeros(1, 8, 8, 3), fps="24")), "fps is '24'"),
    ],
)
def test_conditions_of_what_is_of_another_kind_are_told(wrong, fact):
    with pytest.raises(SettingError, match=re.escape(fact)):
        Request.of("x", conditions=[wrong()])


def test_numbers_of_numpy_and_paths_as_text_are_what_they_are():
    asked = Request.of("x", frames=np.int64(33), eta=np.float32(0.5), resume="windows", enhancer="gemma", sigmas=[1, 0])
    assert asked.completed(DEV).shape.frames == 33


def test_paths_as_text_are_paths_and_a_list_of_sigmas_is_the_schedule():
    asked = Request.of("", encoded="prompt.safetensors", custom_sigmas="1, 0.5, 0")
    assert asked.completed(DEV).script[0].prompt == "prompt.safetensors" and asked.completed(DEV).sigmas == [1, 0.5, 0]


def test_where_finished_windows_would_be_kept_is_told_to_be_unused_without_windows(caplog):
    assert Request.of("x", resume="windows").long is None and "resume is not used" in caplog.text


def test_suggestions_are_near_or_none():
    assert did_you_mean("stepz", ["steps", "seed"]) == " Did you mean steps?"
    assert did_you_mean("completely different", ["steps", "seed"]) == ""


PORTRAIT = (640, 960)  # width and height


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, (768, 512)),
        ({"size": "as the model likes it"}, (768, 512)),
        ({"width": 1024}, (1024, 512)),
        ({"size": "by hand", "width": 96, "height": 64}, (96, 64)),
        ({"size": "16:9"}, (864, 480)),
        ({"size": "9:16", "megapixels": "0.9"}, (704, 1248)),
        ({"size": "1:1", "megapixels": "0.1"}, (320, 320)),
        ({"size": "21:9", "megapixels": "2.1"}, (2240, 960)),
        ({"size": "as the picture"}, (512, 768)),
        ({"size": "as the picture", "megapixels": "0.9"}, (768, 1152)),
    ],
)
def test_a_size_by_the_model_by_ratio_as_a_picture_or_by_hand(asked, size):
    clip = ClipSettings(**asked).sized(DEV, PORTRAIT)
    assert (clip.width, clip.height, clip.frames) == (*size, 121)
    size = size if asked else (512, 768)  # without a graph, a picture that is given counts by itself
    picture = Picture(torch.zeros(1, 960, 640, 3))
    shape = Request.of("x", conditions=[picture], **asked).completed(DEV).shape
    assert (shape.width, shape.height, shape.frames) == (*size, 121)


def test_a_clip_is_as_what_is_given_unless_a_size_is_said():
    """The first picture, else a reference; one that is painted on has another shape, and smaller ones finer steps."""
    tall, wide = Picture(torch.zeros(1, 960, 640, 3)), torch.zeros(9, 320, 640, 3)

    def made(*conditions, **asked):
        complete = Request.of("x", conditions=conditions, **asked).completed(DEV)
        return complete.shape.width, complete.shape.height, complete.followed_picture

    reference = ReferenceVideo(VideoSource(wide))
    assert made(reference, megapixels="0.1") == (448, 224, (640, 320)) and made(reference, tall) == (
        512,
        768,
        (640, 960),
    )
    assert made(replace(reference, downscale=2), megapixels="0.1") == (512, 256, (640, 320))
    assert made(replace(reference, outpaint="around")) == made() == (768, 512, None)
    assert made(tall, width=96, height=64) == (96, 64, None)


def test_a_ratio_is_met_before_an_area_and_in_steps_of_the_upscaler():
    second = SecondStage(upscalers=(Enlarging(),))
    whole = Request.of("x", size="16:9", second=second).completed(DEV)
    assert (whole.final.width, whole.final.height) == (1728, 960)  # of 1536 x 1024 pixels
    assert (whole.shape.width, whole.shape.height) == (864, 480)
    with pytest.raises(SettingError, match="beyond 4096 pixels; choose fewer"):
        ClipSettings(size="21:9", megapixels="8.3").sized(DEV)


@pytest.mark.parametrize("picture", [(2000, 30), (30, 2000), (1, 1)], ids=str)
def test_a_size_that_follows_from_a_picture_can_be_decoded(picture):
    clip = ClipSettings(size="as the picture", megapixels="0.1").sized(DEV, picture)
    assert min(clip.width, clip.height) >= 64


@pytest.mark.parametrize(
    ("asked", "frames"),
    [
        ({}, 121),
        ({"frames": 33}, 33),
        ({"seconds": 2.0}, 49),
        ({"seconds": 2.0, "frames": 33}, 49),
        ({"seconds": 2.0, "frames": 33, "length": "in frames"}, 33),
        ({"seconds": 2.0, "length": "as the model likes it"}, 121),
        ({"seconds": 2.0, "length": "in seconds"}, 49),
    ],
)
def test_a_length_by_the_model_by_seconds_or_by_frames(asked, frames):
    assert ClipSettings(**asked).sized(DEV).nearest()[0].frames == frames
    assert Request.of("x", **asked).completed(DEV).shape.frames == frames


def test_what_auto_means_depends_on_what_is_known():
    typed = ClipSettings(96, 64, 33, seconds=0.0)
    assert typed.sized(None).nearest()[0] == ClipShape(96, 64, 33, Fraction(24))
    for seen, size in ((None, (768, 512)), (PORTRAIT, (512, 768))):
        clip = typed.automatic(seen is not None).sized(DEV, seen)
        assert (clip.width, clip.height, clip.nearest()[0].frames) == (*size, 121)
    assert replace(typed, seconds=1.0).automatic(False).sized(DEV).nearest()[0].frames == 25
    assert replace(typed, size="by hand").automatic(True).sized(DEV).width == 96


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"size": "as the model likes it"}, "size is as the model likes it, but there is no model"),
        ({"size": "16:9"}, "megapixels is as the model likes it, but there is no model"),
        ({"length": "as the model likes it"}, "length is as the model likes it, but there is no model"),
        ({"size": "as the picture", "megapixels": "0.4"}, "there is no picture: connect or give one"),
        ({"length": "in seconds", "seconds": 0.0}, "seconds is 0: write how many"),
    ],
)
def test_a_choice_without_what_it_needs_says_what_is_missing(asked, sentence):
    with pytest.raises(SettingError, match=sentence):
        ClipSettings(96, 64, 33, **{"seconds": 0.0} | asked).sized(None)


def test_an_empty_negative_prompt_is_that_of_the_recipe_and_quotes_are_none():
    assert given_negative(None, DEV) == DEV.negative != ""
    assert given_negative(' "" ', DEV) == "" and given_negative("fog", DEV) == "fog"


@pytest.mark.parametrize("chosen", ["auto", "recipe of the model", "these widgets"])
@pytest.mark.parametrize("sigmas", [None, [1.0, 0.0]])
def test_the_recipe_counts_until_something_else_is_chosen(chosen, sigmas):
    expected = {"auto": sigmas is None, "recipe of the model": True, "these widgets": False}
    assert RecipeSettings(settings=chosen).follows(sigmas) == expected[chosen]


@pytest.mark.parametrize(
    ("given", "sampler"),
    [
        ((), "euler_ancestral"),
        ((Picture(torch.zeros(1, 32, 32, 3)),), "euler_ancestral"),
        ((ReferenceVideo(VideoSource(torch.zeros(9, 32, 32, 3))),), "euler"),
        ((RetakeRange(0.1, 0.2),), "euler"),
    ],
)
def test_a_distilled_2_5_is_ancestral_only_where_nothing_is_followed_or_made_anew(given, sampler):
    """Of the official pipelines of 1.2.0, those of IC-LoRAs and retakes are not."""
    recipe = recipe_for("2.5", 48, distilled=True)
    assert Request.of("x", conditions=given).completed(recipe).sampler == sampler
    assert Request.of("x", conditions=given, sampler="heun").completed(recipe).sampler == "heun"
    assert Request.of("x", conditions=given).completed(recipe_for("2.3", 48, distilled=True)).sampler == "euler"


def test_settings_take_their_own_of_the_values_of_widgets():
    values = {"tile_size": 512, "seed": 7}
    assert settings_from(Tiling, values, tile_frames=64) == Tiling(tile_size=512, tile_frames=64)
    assert values == {"seed": 7}


def test_a_clip_of_ones_own_becomes_smaller_where_that_is_asked_for_and_never_larger():
    likes = OwnClipSettings(megapixels="as the model likes it")
    width, height = likes.size_of((3840, 2160), DEV)
    assert width / height == pytest.approx(16 / 9, rel=0.05) and width * height == pytest.approx(768 * 512, rel=0.1)
    assert likes.size_of((640, 360), DEV) == (0, 0), "its own, or the nearest possible"
    assert replace(likes, width=64).size_of((3840, 2160), DEV) == (64, 0)
    assert OwnClipSettings().size_of((3840, 2160), DEV) == (0, 0)


def test_seeds_are_numbers_and_ranges_each_once():
    assert read_seeds("7, 8;20-22\n7") == [7, 8, 20, 21, 22]
    with pytest.raises(SettingError, match="ranges that go up, such as 3-5"):
        read_seeds("1, 5-3")


def test_clips_are_named_by_the_first_words_of_their_prompts_and_by_their_seeds():
    text = "A red ball bounces twice on the left\n# no prompt\n\na red ball, bounces twice on the left side\n!"
    words = "a_red_ball_bounces_twice_on_the_left"
    names = [f"set/{words}_seed7", f"set/{words}_2_seed7", "set/clip_seed7"]
    assert [each.name for each in Variations(text, "7", "set/").all()] == names


def test_a_prompt_that_no_window_reads_is_not_encoded():
    """Thousands of them took minutes and gigabytes, and were then said to be unread."""
    prompts = [Segment(start, text) for start, text in ((99, "late"), (2, "then"), (100, "later"), (101, "then"))]
    request = Request.of("first", frames=97, segments=prompts, windowing=Windowing(33, 16))
    whole = request.completed(recipe_for("2.3", 48))
    assert [each.prompt for each in whole.script] == ["first", "then"] and whole.unread == (99, 100)
    faded = replace(request, long=replace(request.long, windowing=Windowing(33, 16, transition=1.0)))
    assert faded.completed(recipe_for("2.3", 48)).script == whole.script


@pytest.mark.parametrize("value", [25, "high"])
def test_an_error_names_the_label_of_the_widget_where_it_has_another_name(value):
    with pytest.raises(SettingError, match=r"^text CFG \(text_scale\) is "):
        settings_of(Guidance)["text_scale"].check(value)
    with pytest.raises(SettingError, match=r"^rescale is "):
        settings_of(Guidance)["rescale"].check(value)
    with pytest.raises(SettingError, match=r"^cross-modal CFG \(cross_modal_scale\) is "):
        Guidance(cross_modal_scale="high")
