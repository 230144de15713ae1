"""What another node hands over is checked by the type of the socket, and brought into its form."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ltx2_core.conditioning.characters import Character
from ltx2_core.conditioning.conditions import RetakeRange
from ltx2_core.conditioning.light import LightTarget
from ltx2_core.conditioning.pictures import GeneratedKeyframes, Picture
from ltx2_core.conditioning.sockets import check_inputs, check_written
from ltx2_core.conditioning.timeline import TimelineText
from ltx2_core.conditioning.tracks import MotionTracks
from ltx2_core.errors import SettingError
from ltx2_core.fields import OutputName, settings_of
from ltx2_core.lora import Strengths
from ltx2_core.sampling import Guidance, ScheduleSettings
from ltx2_core.sampling.windows import Windowing
from ltx2_core.settings import KeyframeSettings, SamplingSettings, Variations
from ltx2_core.video_vae import Tiling


@dataclass
class Input:
    id: str
    kind: str
    optional: bool = False
    min: float | None = None
    max: float | None = None
    options: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def get_io_type(self) -> str:
        return self.kind


def taken(value: Any, kind: str, **more: Any) -> Any:
    values = {"x": value}
    check_inputs([Input("x", kind, **more)], values, {"OURS": (int, "LTX-2 Something"), "CHAIN": (tuple, "a node")})
    return values.get("x", "nothing")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 65, 0, 10**400, "64", [1], 1.5])
def test_a_number_keeps_to_the_limits_of_its_widget(value):
    assert taken(64.0, "INT", min=1, max=64) == 64
    with pytest.raises(SettingError, match="x is"):
        taken(value, "INT", min=1, max=64)


def written(owner: type, **values: Any) -> None:
    """Hold ``values`` of widgets of ``owner`` as a graph that has not run yet says them."""
    inputs = [Input(name, "ANY") for name in values]
    for each in inputs:
        if each.id in settings_of(owner):
            each.setting = settings_of(owner)[each.id]
    check_written(inputs, values, {})


@pytest.mark.parametrize(
    ("owner", "values", "words"),
    [
        (Tiling, {"tile_size": 512, "tile_overlap": 512}, "512 pixels cannot overlap by 512"),
        (Tiling, {"tile_overlap": 1024}, "768 pixels cannot overlap by 1024"),
        (RetakeRange, {"start": 2.0, "end": 1.0}, "2 s to 1 s"),
        (LightTarget, {"filename_prefix": "../x"}, "'../x'"),
        (MotionTracks, {"tracks": "[]", "width": 4096, "height": 32}, "4096 x 32"),
        (MotionTracks, {"tracks": "["}, "no JSON"),
        (Windowing, {"window": 33, "overlap": 32}, "33 frames that share 32"),
        (Windowing, {"window": 120}, "120 frames"),
        (ScheduleSettings, {"schedule": "custom", "custom_sigmas": "1, 0.5"}, "0.5; the last one must be 0"),
        (SamplingSettings, {"start_step": 8, "end_step": 4}, "start_step is 8 and end_step 4"),
        (GeneratedKeyframes, {"frames": "1, last"}, "'1, last'"),
        (Character, {"way": "auto"}, "neither a picture nor a voice"),
    ],
)
def test_what_a_graph_says_is_held_together_before_it_runs(owner, values, words):
    with pytest.raises(SettingError, match=words):
        written(owner, **values)


@pytest.mark.parametrize(
    ("owner", "values"),
    [
        (Tiling, {"tile_size": 0, "tile_overlap": 1024}),
        (Tiling, {"tile_size": None, "tile_overlap": 1024}),
        (RetakeRange, {"start": 2.0, "end": None}),
        (Picture, {"frame": 1}),
        (Character, {"way": "auto", "voice": None}),
    ],
    ids=["automatic tiles", "tiles of a link", "an end of a link", "a picture of a link", "a voice of a link"],
)
def test_what_a_link_will_bring_is_not_held_together_yet(owner, values):
    written(owner, **values)


def test_nothing_on_an_optional_input_is_as_if_it_were_not_connected():
    for kind in ("IMAGE", "AUDIO", "INT", "OURS", "UNKNOWN"):
        assert taken(None, kind, optional=True) == "nothing"


def test_nothing_on_a_required_input_is_a_sentence():
    with pytest.raises(SettingError, match="This video has no sound"):
        taken(None, "AUDIO")
    with pytest.raises(SettingError, match=r"Nothing came to x.* LTX-2 Something"):
        taken(None, "OURS")
    with pytest.raises(SettingError, match=r"Nothing came to x.* pictures"):
        taken(None, "IMAGE")


@pytest.mark.parametrize("channels", [1, 2])
def test_a_grey_picture_has_three_equal_channels(channels):
    grey = torch.rand(2, 4, 5, channels)
    assert torch.equal(taken(grey, "IMAGE"), grey[..., :1].repeat(1, 1, 1, 3))


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (1, 1, 4, 5)])
def test_a_mask_has_frames(shape):
    assert taken(torch.ones(shape), "MASK").shape == (1, 4, 5)


@pytest.mark.parametrize("saved", ["sub\\mini.safetensors", "sub/mini.safetensors"])
@pytest.mark.parametrize("listed", ["sub\\mini.safetensors", "sub/mini.safetensors"])
def test_a_file_is_found_whatever_system_saved_its_name(saved, listed):
    assert taken(saved, "COMBO", options=("other", listed)) == listed


def test_a_choice_that_is_not_there_is_a_sentence_with_the_nearest_one():
    with pytest.raises(SettingError, match="Did you mean euler"):
        taken("eular", "COMBO", options=("euler", "heun"))


def test_a_file_of_a_model_that_is_not_there_is_named_with_its_folders():
    with pytest.raises(SettingError, match="models/vae or models/vae_approx"):
        taken("a.safetensors", "COMBO", options=("none",), folders=("vae", "vae_approx"))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("IMAGE", torch.zeros(0, 4, 5, 3)),
        ("IMAGE", torch.zeros(4, 5, 3)),
        ("IMAGE", torch.zeros(1, 4, 5, 3, dtype=torch.uint8)),
        ("MASK", torch.zeros(0, 4, 5)),
        ("AUDIO", {}),
        ("AUDIO", {"waveform": torch.zeros(1, 2, 9), "sample_rate": 0}),
        ("AUDIO", {"waveform": torch.zeros(1, 2, 9)}),
        ("AUDIO", {"waveform": torch.zeros(1, 2, 0), "sample_rate": 48000}),
        ("AUDIO", {"waveform": torch.zeros(2, 9), "sample_rate": 48000}),
        ("VIDEO", "clip.mp4"),
        ("LATENT", {}),
        ("LATENT", {"samples": torch.zeros(1), "noise_mask": "x"}),
        ("CONDITIONING", []),
        ("CONDITIONING", [[torch.zeros(1, 2, 3)]]),
        ("CONDITIONING", [[torch.zeros(2, 3), {}]]),
        ("CONDITIONING", "x"),
        ("SIGMAS", torch.zeros(2, 2)),
        ("SIGMAS", torch.ones(2, dtype=torch.complex64)),
        ("STRING", b"x"),
        ("BOOLEAN", "x"),
        ("OURS", "x"),
        ("CHAIN", (1,)),
        ("IMAGE", torch.empty(1, 4, 5, 3, device="meta")),
        ("IMAGE", torch.ones(1, 4, 5, 3).to_sparse()),
        ("MASK", torch.zeros(1, 4, 5, dtype=torch.complex64)),
        ("AUDIO", {"waveform": torch.empty(1, 2, 9, device="meta"), "sample_rate": 48000}),
        ("LATENT", {"samples": torch.zeros(1, dtype=torch.complex64)}),
        ("LATENT", {"samples": torch.full((1, 2), torch.nan)}),
        ("LATENT", {"samples": torch.zeros(1), "noise_mask": torch.full((1, 2, 2), torch.inf)}),
        ("CONDITIONING", [[torch.empty(1, 2, 3, device="meta"), {}]]),
        ("CONDITIONING", [[torch.full((1, 2, 3), torch.nan), {}]]),
    ],
)
def test_what_does_not_fit_is_a_sentence_with_the_name_of_the_socket(kind, value):
    with pytest.raises(SettingError, match=r"x (is|holds|cannot hold)|of x"):
        taken(value, kind)


@pytest.mark.parametrize("beyond", [2.0, -2.0, 255.0])
def test_a_noise_mask_beyond_0_to_1_is_refused(beyond):
    """Its noise would be scaled by it, and the clip be wrong without a word."""
    latent = {"samples": torch.zeros(1, 128, 2, 2, 2), "noise_mask": torch.full((1, 64, 64), beyond)}
    with pytest.raises(SettingError, match=f"The noise mask of x has values from {beyond:g} to .* 0 to 1 is meant"):
        taken(latent, "LATENT")
    assert taken({**latent, "noise_mask": torch.ones(1, 64, 64)}, "LATENT")


@pytest.mark.parametrize(
    ("owner", "name", "good", "bad", "words"),
    [
        (KeyframeSettings, "frames", "0, -1", "first", "for example 0, 60, -1"),
        (KeyframeSettings, "strengths", "1", "7", "between 0 and 1"),
        (KeyframeSettings, "strengths", "1, 0.5", "firm", "for example 1, 0.7"),
        (Guidance, "stg_blocks", "auto", "last", "such as 28"),
        (Strengths, "blocks", "0-23, 40", "0-999999999999, x", "such as 0-23"),
        (Strengths, "schedule", "1.0: 1", "rising", "or constant"),
        (TimelineText, "timeline", '{"prompts": [{"text": "a"}]}', '{"prompts": []}', "has no prompt"),
    ],
)
def test_a_text_that_can_mean_nothing_is_refused_before_anything_runs(owner, name, good, bad, words):
    text = Input(name, "STRING")
    text.reads = settings_of(owner)[name].look.reads
    check_written([text], {name: good}, {})
    with pytest.raises(SettingError, match=words):
        check_written([text], {name: bad}, {})


@pytest.mark.parametrize("linked", [[], ["images", "video"]])
def test_a_node_takes_either_images_or_a_video(linked):
    """As where its loader is muted."""
    sockets = [Input("images", "IMAGE", optional=True), Input("video", "VIDEO", optional=True)]
    for name in ("images", "video"):
        check_written(sockets, {name: None}, {})
    with pytest.raises(SettingError, match="either images or a video"):
        check_written(sockets, dict.fromkeys(linked), {})


def test_a_name_that_no_system_can_write_is_refused():
    assert OutputName("video/clip").filename_prefix == "video/clip"
    with pytest.raises(SettingError, match="has a name of 240 bytes; at most 220 fit"):
        OutputName(f"video/{'x' * 240}")  # with its number and ending it has more than the 255 of most systems
    with pytest.raises(SettingError, match=r"filename_prefix is '\.\./a'"):
        Variations("a ball", "7", "../a")
