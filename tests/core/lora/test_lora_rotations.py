"""OFT, BOFT and GLoRA: which weights they fit, what limits them, and which settings of PEFT they follow."""

import json
from pathlib import Path

import pytest
import torch
from lora_forms import cayley
from safetensors.torch import save_file

from ltx2_core.errors import CheckpointError
from ltx2_core.lora import Lora, open_lora
from ltx2_core.lora.report import compare_with_release
from ltx2_core.lora.shrink import shrink_lora

LAYER = "diffusion_model.transformer_blocks.0.attn1.to_q"
SIDE = 4096  # of its weight


def lora(folder: Path, parts: dict[str, torch.Tensor | tuple[int, ...]], layer: str = LAYER) -> Lora:
    state = {name: torch.zeros(part) if isinstance(part, tuple) else part for name, part in parts.items()}
    save_file({f"{layer}.{name}": part for name, part in state.items()}, folder / "x.safetensors")
    return open_lora(folder / "x.safetensors")


FITTING = {
    "OFT": {"oft_blocks": (64, 64, 64)},
    "OFT with lengths": {"oft_blocks": (512, 8, 8), "rescale": (SIDE, 1), "alpha": ()},
    "BOFT": {"oft_blocks": (7, 64, 64, 64)},
    "OFT of PEFT": {"oft_R.weight": (128, 496)},
    "OFT of OneTrainer": {"oft_R.weight": (1, 496), "oft_R.scaled_oft": ()},
    "BOFT of PEFT": {"boft_R": (2, 512, 8, 8), "boft_s": (SIDE, 1)},
    "GLoRA of rank 4": {
        "a1.weight": (SIDE, 4), "a2.weight": (4, SIDE), "b1.weight": (SIDE, 4), "b2.weight": (4, SIDE), "alpha": ()
    },
}  # fmt: skip
BROKEN = {
    "of another weight": {"oft_blocks": (32, 64, 64)},
    "not square": {"oft_blocks": (64, 64, 32)},
    "flat": {"oft_blocks": (64, 64)},
    "lengths of another weight": {"oft_blocks": (64, 64, 64), "rescale": (7, 1)},
    "more stages than halves": {"oft_blocks": (8, 64, 64, 64)},
    "stages without end": {"oft_blocks": (10**9, 0, 64, 64)},
    "no triangle": {"oft_R.weight": (128, 495)},
    "nothing in it": {"oft_R.weight": (4, 0)},
    "blocks of another weight": {"oft_R.weight": (64, 496)},
    "one block that does not divide": {"oft_R.weight": (1, 3)},
    "flat, of PEFT": {"oft_R.weight": (496,)},
    "odd halves": {"boft_R": (2, 512, 7, 7), "boft_s": (SIDE, 1)},
    "factors that differ": {
        "a1.weight": (SIDE, 4), "a2.weight": (4, SIDE), "b1.weight": (SIDE, 4), "b2.weight": (8, SIDE)
    },
    "factors of another weight": {
        "a1.weight": (64, 4), "a2.weight": (4, 64), "b1.weight": (SIDE, 4), "b2.weight": (4, SIDE)
    },
    "factors that are flat": {"a1.weight": (4,), "a2.weight": (4,), "b1.weight": (4,), "b2.weight": (4,)},
}  # fmt: skip


@pytest.mark.parametrize("form", FITTING)
def test_a_report_says_the_form_and_that_it_fits(tmp_path, form):
    report = compare_with_release(lora(tmp_path, FITTING[form]), "2.3")
    assert report.fitting == 1 and not report.lora.unknown
    assert f": {form.split(' of PEFT')[0].split(' of One')[0].split(' with')[0]}, 1 layer" in str(report)


@pytest.mark.parametrize("fault", BROKEN)
def test_what_does_not_go_together_fits_nothing(tmp_path, fault):
    report = compare_with_release(lora(tmp_path, BROKEN[fault]), "2.3")
    (said,) = report.misshapen["video"]
    assert report.fitting == 0 and f"{LAYER} is for (" in said and said.endswith("meets (4096, 4096)")


@pytest.mark.parametrize(
    ("layer", "limit"),
    [
        (LAYER, 0.5),  # as the trainer of ComfyUI
        ("lycoris_" + LAYER.removeprefix("diffusion_model.").replace(".", "_"), 0.5 * 8),  # for each output
    ],
)
def test_an_alpha_limits_how_far_a_rotation_turns(tmp_path, layer, limit):
    blocks = torch.randn(4, 2, 2) * 9
    ((_, _, delta),) = lora(tmp_path, {"oft_blocks": blocks, "alpha": torch.tensor(0.5)}, layer).layers
    held = blocks * (limit / torch.linalg.norm(blocks - blocks.mT))
    weight = torch.randn(8, 6)
    found = delta.compute(weight.clone(), {"oft_blocks": blocks})
    torch.testing.assert_close(found, torch.block_diag(*cayley(held)).T @ weight - weight)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "my_style.safetensors"])
@pytest.mark.parametrize(
    ("settings", "counts"), [({"oft_block_size": 4}, True), ({"r": 2}, True), ({"oft_block_size": 8}, False)]
)
def test_settings_of_peft_say_which_way_a_rotation_turns(tmp_path, name, settings, counts):
    """The exact one is the other way round than the series; a renamed file has its own if its blocks are so large."""
    entries = torch.randn(2, 6) * 0.01
    save_file({f"{LAYER}.oft_R.weight": entries}, tmp_path / name)
    found = []
    for exact in (False, True):
        written = {"peft_type": "OFT", "r": 0, "use_cayley_neumann": not exact} | settings
        (tmp_path / "adapter_config.json").write_text(json.dumps(written))
        ((_, _, delta),) = open_lora(tmp_path / name).layers
        found.append(delta.compute(torch.eye(8), {"rotation": entries}))
    is_own = counts or name.startswith("adapter_model")
    torch.testing.assert_close(found[1], found[0].T if is_own else found[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("wrong", [{"num_cayley_neumann_terms": 10**9}, {"eps": "small"}, {"coft": 1}])
def test_settings_of_a_rotation_that_cannot_be_are_refused(tmp_path, wrong):
    save_file({f"{LAYER}.oft_R.weight": torch.ones(2, 6)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "OFT"} | wrong))
    with pytest.raises(CheckpointError, match=next(iter(wrong))):
        open_lora(tmp_path / "adapter_model.safetensors")


def test_a_rotation_is_not_shrunk(tmp_path):
    lora(tmp_path, FITTING["OFT"])
    with pytest.raises(CheckpointError, match="nothing can be shrunk"):
        shrink_lora(tmp_path / "x.safetensors", tmp_path / "small.safetensors", 0.9)
