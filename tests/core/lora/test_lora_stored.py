"""LoRAs whose tensors stand for other numbers than are stored, and what a file says that is not understood."""

import json

import pytest
import torch
from lora_files import BLOCK, IN, OUT, RANK, changes, factors, off, written
from safetensors.torch import load_file, save_file

from ltx2_core.errors import CheckpointError
from ltx2_core.lora import open_lora
from ltx2_core.lora.report import compare_with_release
from ltx2_core.lora.shrink import shrink_lora

LAYER = f"{BLOCK}.0.attn1.to_q"


def stored(form: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The tensors of a layer in a format, and the change that their numbers make."""
    file, numbers = {}, []
    for part, value in zip(("lora_B", "lora_A"), factors([4, 3, 1]).values()):
        kind, largest = (torch.float8_e4m3fn, 448) if "fp8" in form else (torch.int8, 127)
        scale = value.abs().amax(1, keepdim=True) / largest if form == "quanto" else value.abs().max() / largest
        rounded = (value / scale).round().to(kind) if kind == torch.int8 else (value / scale).to(kind)
        marker = bytearray(json.dumps({"format": "int8_tensorwise"}), "utf-8")
        beside = {
            "fp8": {"weight": rounded, "weight_scale": scale},
            "old fp8": {"weight": rounded, "scale_weight": scale},
            "int8": {
                "weight": rounded,
                "weight_scale": scale,
                "comfy_quant": torch.frombuffer(marker, dtype=torch.uint8),
            },
            "quanto": {"weight._data": rounded, "weight._scale": scale},
        }[form]
        file |= {f"{LAYER}.{part}.{end}": tensor.contiguous() for end, tensor in beside.items()}
        numbers.append((rounded.float() * scale).bfloat16().float())
    more = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)} if form == "old fp8" else {}
    return file | more, numbers[0] @ numbers[1]


@pytest.mark.parametrize("form", ["fp8", "old fp8", "int8", "quanto"])
def test_a_quantised_file_does_what_its_numbers_say(tmp_path, form):
    """So large distilled LoRAs are passed on; without its scales a change is millions of times too strong."""
    file, change = stored(form)
    save_file(file, tmp_path / "x.safetensors")
    lora = open_lora(tmp_path / "x.safetensors")
    assert not lora.unknown and lora.layers[0][2].nbytes == 2 * RANK * (IN + OUT)
    (found,) = changes(tmp_path / "x.safetensors").values()
    assert off(found, change) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_plain_file_is_used_as_it_is_stored(tmp_path, dtype):
    plain = {part: x.to(dtype) for part, x in factors([4, 3, 1]).items()}
    delta = open_lora(written(tmp_path / "x.safetensors", {LAYER: plain})).layers[0][2]
    assert not delta.is_any_quantized
    for part, x in plain.items():
        assert delta.dtype(part) == dtype and torch.equal(delta.tensor(part), x)


@pytest.mark.parametrize(("energy", "rank"), [(0.9, 2), (1.0, RANK)])
def test_a_quantised_file_is_shrunk_to_plain_numbers(tmp_path, energy, rank):
    file, change = stored("fp8")
    save_file(file, tmp_path / "x.safetensors")
    done = shrink_lora(tmp_path / "x.safetensors", tmp_path / "small.safetensors", energy)
    assert done.layers[0].rank == (RANK, rank)
    assert {tensor.dtype for tensor in load_file(tmp_path / "small.safetensors").values()} == {torch.bfloat16}
    (found,) = changes(tmp_path / "small.safetensors").values()
    assert off(found, change) == pytest.approx(done.error, abs=5e-3)


def test_a_format_that_cannot_be_read_is_told_when_the_file_is_opened(tmp_path):
    file = {key: tensor for key, tensor in stored("int8")[0].items() if not key.endswith("comfy_quant")}
    save_file(file, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"lora_[AB]\.weight is stored as int8 without a marker"):
        open_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize("end", ["lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight", "dora_scale"])
def test_a_magnitude_is_read_under_every_name(tmp_path, end):
    path = written(tmp_path / "x.safetensors", {LAYER: factors([4, 3])}, **{f"{LAYER}.{end}": torch.ones(OUT)})
    lora = open_lora(path)
    assert lora.layers[0][2].kind == "DoRA" and not lora.unknown


def test_the_line_about_a_lora_names_what_is_left_out(tmp_path):
    more = {f"{LAYER}.oft_blocks": torch.ones(2, 2), "text_encoder.layers.0.self_attn.q_proj.diff": torch.ones(2, 2)}
    lora = open_lora(written(tmp_path / "x.safetensors", {LAYER: factors([4, 3])}, **more))
    assert lora.left_out == [f"{LAYER}.oft_blocks"]  # what is for Gemma is told as that
    assert f"left out: {LAYER}.oft_blocks" in compare_with_release(lora, "2.3").line


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ("lora_B", "lora_A"),
        ("lora_B.my-style.weight", "lora_A.my-style.weight"),
        ("lora_linear_layer.up.weight", "lora_linear_layer.down.weight"),
        ("lora.up.weight", "lora.down.weight"),
    ],
)
def test_factors_are_read_under_every_name(tmp_path, up, down):
    made = factors([4, 3])
    path = tmp_path / "x.safetensors"
    save_file({f"{LAYER}.{up}": made["up"].contiguous(), f"{LAYER}.{down}": made["down"].contiguous()}, path)
    assert not open_lora(path).unknown
    (found,) = changes(path).values()
    assert off(found, made["up"] @ made["down"]) < 1e-6


def test_differences_of_norms_are_read_under_the_name_of_lycoris(tmp_path):
    norm = torch.arange(4.0)
    save_file({f"{BLOCK}.0.attn1.q_norm.w_norm": norm}, tmp_path / "x.safetensors")
    (found,) = changes(tmp_path / "x.safetensors").values()
    assert torch.equal(found, norm)


@pytest.mark.parametrize("lengths", [(OUT, 1), (1, IN)])
def test_a_length_for_what_is_zero_changes_nothing_there(tmp_path, lengths):
    """A row, or a column, that has no direction must not become "not a number", which would be the whole clip then."""
    made = factors([4, 3])
    made["up"][3], made["down"][:, 5] = 0, 0
    path = written(tmp_path / "x.safetensors", {LAYER: made}, **{f"{LAYER}.dora_scale": torch.ones(lengths)})
    (found,) = changes(path).values()  # of a weight that is zero
    assert found.isfinite().all() and not found[3].any() and not found[:, 5].any() and found.any()
