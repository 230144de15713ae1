"""A character is given once, and every window of a long clip has its pictures and its voice."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from conditions import Seen
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.cli.arguments import request_of
from ltx2_core.cli.parser import parse
from ltx2_core.cli.syntax import parse_character
from ltx2_core.conditioning import ReferenceAudio, State
from ltx2_core.conditioning.characters import Character, PictureBefore, ReferenceSheet, sheet
from ltx2_core.conditioning.conditions import KeepAudio, of_second_stage
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.preprocess import fit
from ltx2_core.conditioning.rate import of_round
from ltx2_core.conditioning.sources import AudioSource
from ltx2_core.errors import SettingError
from ltx2_core.geometry import ClipShape
from ltx2_core.latents import STREAMS
from ltx2_core.lora import Strengths, open_lora
from ltx2_core.media.write import write_audio
from ltx2_core.pipeline.characters import place_character
from ltx2_core.pipeline.encode_conditions import measure_conditions
from ltx2_core.pipeline.long import WithinWindow, sampled_size
from ltx2_core.sampling.windows import split_windows

FPS = Fraction(24)
FACES = torch.rand(3, 40, 20, 3, generator=torch.Generator().manual_seed(0))
VOICE = AudioSource(torch.rand(1, 24_000, generator=torch.Generator().manual_seed(1)) - 0.5, 24_000)
IC_LORA = MINIATURE / "loras" / "ic-motion.safetensors"


@pytest.fixture
def lora(tmp_path):
    """An IC-LoRA under another name, with such fields in its header."""

    def make(name: str, **header: str):
        save_file(load_file(IC_LORA), tmp_path / f"{name}.safetensors", header)
        return open_lora(tmp_path / f"{name}.safetensors"), Strengths()

    return make


@pytest.mark.parametrize("way", ["keyframe", "ingredients"])
def test_every_window_sees_and_hears_the_same(way):
    """At the same place before it, or for as long as it lasts."""
    shape, windows = ClipShape(32, 64, 97, FPS), split_windows(97, FPS, 33, 16)
    given = Character(FACES, VOICE).conditions(way)
    whole = measure_conditions(given, shape, STREAMS).state
    seen = []
    for window in windows:
        fresh = State.of(torch.zeros(1, 128, window.video.stop - window.video.start, 2, 1), FPS)
        here = WithinWindow("video", whole.video, window)(fresh)
        seen.append(here.positions[0, 0, here.count :] * 24)
        sound = State.of(torch.zeros(1, 8, window.audio.stop - window.audio.start, 16), FPS)
        heard = WithinWindow("audio", whole.audio, window)(sound)
        assert heard.positions.shape[2] - heard.count == 26
    if way == "keyframe":
        assert all(torch.allclose(each, seen[0]) for each in seen)
        assert seen[0][::2].round().tolist() == [[-24, -23], [-16, -15], [-8, -7]]  # of two cells each
    else:
        assert all(each.round().min() <= 0 and each.round().max() >= 33 for each in seen), seen
    assert sampled_size(whole, windows).tokens == (max(map(len, seen)) + 5 * 2, sampled_size(whole, windows).tokens[1])


def test_a_sheet_stands_still_and_is_seen_whole():
    """Also where it is as long as the clip is not, and where the LoRA wants it smaller."""
    (reference,), encoders = Character(FACES[:1]).conditions("ingredients", (2, 1)), Seen()
    (item,) = reference.encode(ClipShape(192, 128, 25, FPS), STREAMS, encoders)
    assert (item.downscale, item.strength, item.latent.shape[2:]) == (2, 1.0, (4, 2, 3))
    (pixels,) = encoders.pixels
    assert pixels.shape == (1, 3, 25, 64, 96) and (pixels == pixels[:, :, :1]).all()
    assert_close(pixels[0, :, 0, :, 32:64], fit(FACES[:1], 32, 64)[0, :, 0])
    assert not pixels[..., :32].any() and not pixels[..., 64:].any()


def test_several_pictures_are_one_sheet_in_rows():
    whole = sheet(FACES)
    assert whole.shape == (1, 80, 40, 3) and (whole[0, 40:, 20:] == 0.5).all()
    for number, face in enumerate(FACES):
        top, left = 40 * (number // 2), 20 * (number % 2)
        assert torch.equal(whole[0, top : top + 40, left : left + 20], face)


def test_what_later_stages_have_of_it():
    first, voice = Character(FACES[:1], VOICE).conditions("keyframe")
    of_sheet, _ = Character(FACES[:1], VOICE).conditions("ingredients")
    assert isinstance(first, PictureBefore) and isinstance(of_sheet, ReferenceSheet)
    assert of_second_stage([first, of_sheet, voice], keep_references=False) == (first, voice)
    assert of_round([first, of_sheet, picture := Picture(FACES[:1]), KeepAudio(VOICE)]) == (picture,)


def test_the_way_follows_the_loras(lora):
    character = Character(FACES, VOICE)

    def placed(*loras, way="auto"):
        given, told = place_character(Character(FACES, VOICE, way), loras, "2.3")
        assert isinstance(given[-1], ReferenceAudio)
        return [type(each) for each in given[:-1]], told

    seen, told = placed()
    assert seen == [PictureBefore] * 3 and "way: keyframe (the IC-LoRA Ingredients is not loaded)" in told
    assert "possible here: keyframe, voice only." in told and "without one it may be ignored" in told
    fitting = lora("ltx-2.3-ic-lora-ingredients", reference_downscale_factor="2")
    seen, told = placed(fitting)
    assert seen == [ReferenceSheet] and "way: ingredients (by ltx-2.3-ic-lora-ingredients.safetensors)" in told
    assert "possible here: keyframe, ingredients, voice only." in told
    ((reference, *_), _) = place_character(character, (fitting,), "2.3")
    assert reference.downscale == 2 and reference.video.source.shape == (1, 80, 40, 3)
    assert placed(lora("x", **{"modelspec.title": "Ingredients", "model_version": "2.3"}))[0] == [ReferenceSheet]
    other, named = lora("ltx-2.5-Ingredients"), lora("ltx-2.3-id-lora-talk")
    seen, told = placed(other, named)
    assert seen == [PictureBefore] * 3 and "voice: by ltx-2.3-id-lora-talk.safetensors" in told
    assert "is made for 2.5, and this model is LTX-2.3" in told
    seen, told = placed(other, way="ingredients")
    assert seen == [ReferenceSheet] and "no loaded LoRA says that it is Ingredients for LTX-2.3" in told
    assert placed(way="voice only")[0] == []
    with pytest.raises(SettingError, match="the model has no LoRA: load the IC-LoRA Ingredients"):
        placed(way="ingredients")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "neither a picture nor a voice"),
        ({"voice": VOICE, "way": "keyframe"}, "this character has no picture"),
        ({"pictures": FACES, "way": "voice only"}, "this character has no voice"),
        ({"pictures": FACES * 255}, "pictures of the character"),
    ],
)
def test_a_character_that_cannot_be_shown_is_refused(settings, said):
    with pytest.raises(SettingError, match=said):
        Character(**settings)


def test_a_voice_in_a_mute_clip_is_refused_in_a_sentence():
    given = Character(None, VOICE).conditions("voice only")
    with pytest.raises(SettingError, match="The sound of the clip is given or kept, but this latent has none"):
        measure_conditions(given, ClipShape(32, 32, 9, FPS), STREAMS[:1])


def test_the_flag(tmp_path, caplog):
    caplog.set_level("INFO")
    face, voice = tmp_path / "a.b.png", tmp_path / "anna.wav"
    Image.new("RGB", (40, 20), "red").save(face)
    write_audio(voice, VOICE.waveform, 24_000)
    flags = [f"{face}:{voice}:way=keyframe,strength=0.5,seconds=0.5", str(face), str(voice)]
    words = [word for flag in flags for word in ("--character", flag)]
    request = request_of(
        parse(["generate", "--output", "x.mp4", "--prompt", "x", *words]), ltx2.open_models("miniature")
    )
    first, heard, alone, spoken = request.conditions
    assert (first.frame, first.picture.strength, heard.strength) == (-8, 0.5, 0.5)
    assert heard.audio.seconds == pytest.approx(0.5) and spoken.audio.seconds == pytest.approx(1.0)
    assert isinstance(alone, PictureBefore) and "way: voice only (there is no picture)" in caplog.text


def test_files_of_a_drive_are_told_apart():
    files, settings = parse_character(r"C:\cast.1\anna.png:D:\anna.wav:way=voice only")
    assert files == [Path(r"C:\cast.1\anna.png"), Path(r"D:\anna.wav")] and settings == {"way": "voice only"}
    with pytest.raises(SettingError, match="write PICTURE, VOICE or PICTURE:VOICE"):
        parse_character("anna")
