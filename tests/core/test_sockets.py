"""What another node hands over is checked by the type of the socket, and brought into its form."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ltx2_core.conditioning.sockets import check_inputs
from ltx2_core.errors import SettingError


@dataclass
class Input:
    id: str
    kind: str
    optional: bool = False
    min: float | None = None
    max: float | None = None
    options: tuple[str, ...] = ()

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
    with pytest.raises(SettingError, match=r"x (is|holds)|of x"):
        taken(value, kind)
