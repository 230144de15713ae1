"""Weights as the libraries that define the formats wrote them, byte for byte, and what they stand for."""

import json
import math

import pytest
import torch
from torch import nn
from written import FORMAT, VECTORS, expected_of, file_of, read

from ltx2_core.quantization import (
    FORMATS,
    expand_stored,
    expand_weight,
    find_format,
    install_quantized_layers,
    nibbles,
    respell,
    stored_weights,
)
from ltx2_core.quantization.block_scales import scales_of_rows
from ltx2_core.quantization.gguf_blocks import expand_blocks
from ltx2_core.quantization.rotation import rotate


@pytest.mark.parametrize("name", FORMAT)
@torch.no_grad()
def test_the_numbers_of_a_stored_weight(name):
    expected, dtype = expected_of(name)
    kind, tolerance = FORMAT[name]
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(*expected.shape[::-1], bias=False)})
    state = file_of(name)
    if name == "fp8_cast_of_prequant":
        dtype = torch.float32
    assert find_format(stored_weights(state)["q.weight"]) is FORMATS[kind]
    stored = state["q.weight"]
    install_quantized_layers(network, state)
    network.load_state_dict(state, assign=True)
    assert network["q"].weight.data_ptr() == stored.data_ptr() and network["q"].shape == expected.shape
    found = expand_weight(network["q"], dtype).float()
    assert found.shape == expected.shape and float((found - expected).abs().max()) <= tolerance * expected.abs().max()
    x = torch.randn(3, expected.shape[1])
    torch.testing.assert_close(network["q"](x), x @ expand_weight(network["q"], torch.float32).T, atol=1e-4, rtol=1e-4)


UNSAID = {
    "int8_convrot_g256": '{"format": "int8_tensorwise", "convrot": true}',
    "w4a8_codebook_g16_r256": '{"format": "asym_w4a8_int8"}',
}


@pytest.mark.parametrize("name", UNSAID)
def test_groups_that_a_marker_does_not_name_are_the_usual_ones(name):
    said, unsaid = file_of(name), torch.tensor(list(UNSAID[name].encode()), dtype=torch.uint8)
    numbers = [expand_stored(stored_weights(said | more)["q.weight"]) for more in ({}, {"q.comfy_quant": unsaid})]
    assert torch.equal(*numbers)


# What convert_to_quant writes: the marker, and the shape of the scales of a matrix (16, 64) in float8 or int8.
SCALES_OF_BLOCKS = {
    "float8_e4m3fn_block3d": (16, 4, 1),
    "float8_e4m3fn_blockwise": (2, 8),
    "int8_blockwise": (2, 8),
    "int8_lodewise": (16, 4),
}


@pytest.mark.parametrize(("named", "shape"), SCALES_OF_BLOCKS.items())
def test_a_scale_counts_in_its_block(named, shape):
    numbers, scales = torch.randint(-9, 10, (16, 64)).float(), torch.rand(shape[:2]) + 0.5
    marker = torch.tensor(list(json.dumps({"format": named, "group_size": 8}).encode()), dtype=torch.uint8)
    kind = torch.int8 if "int8" in named else torch.float8_e4m3fn
    state = {"q.weight": numbers.to(kind), "q.weight_scale": scales.reshape(shape), "q.comfy_quant": marker}
    stored, blocks = stored_weights(state)["q.weight"], torch.ones(16 // shape[0], 64 // shape[1])
    format, expected, rows = find_format(stored), numbers * torch.kron(scales, blocks), torch.tensor([9, 0, 9])
    assert not format.find_problem(stored)
    torch.testing.assert_close(format.dequantize(stored, (16, 64), torch.float32), expected)
    torch.testing.assert_close(format.expand_picked(stored, (16, 64), rows), expected[rows])
    state["q.weight_scale"] = torch.ones(3, 8)
    assert "of shape (3, 8)" in format.find_problem(stored_weights(state)["q.weight"])


def test_mxfp8_with_a_scale_for_cards_without_blocks():
    state = file_of("mxfp8_32x64")
    marker = torch.tensor(list(b'{"format": "hybrid_mxfp8"}'), dtype=torch.uint8)
    hybrid = state | {"q.comfy_quant": marker, "q.weight_scalar": torch.tensor(0.25)}
    assert torch.equal(*(expand_stored(stored_weights(each)["q.weight"]) for each in (state, hybrid)))


def test_what_inputs_are_multiplied_by_before_nvfp4_is_a_scale_of_columns():
    state, by = file_of("nvfp4_16x64"), torch.rand(64) + 0.5
    plain, smooth = (stored_weights(each)["q.weight"] for each in (state, state | {"q.pre_quant_scale": by}))
    format, rows = FORMATS["nvfp4"], torch.tensor([9, 0, 9])
    expected = format.dequantize(plain, (16, 64), torch.float32) * by
    torch.testing.assert_close(format.dequantize(smooth, (16, 64), torch.float32), expected)
    torch.testing.assert_close(format.expand_picked(smooth, (16, 64), rows), expected[rows])
    assert [format.can_multiply(each, (16, 64)) for each in (plain, smooth)] == [True, False]


@pytest.mark.parametrize("name", ["w4a8_codebook_g16_r256", "w6a8_uniform_g16_r256"])
def test_w4a8_may_have_its_bytes_and_its_scales_as_other_kinds_of_numbers(name):
    state = file_of(name)
    expected, scale = expand_stored(stored_weights(state)["q.weight"]), state["q.weight_s_rel"]
    for more in (
        {"q.weight": state["q.weight"].view(torch.uint8)},
        {"q.weight_s_rel": scale.view(torch.uint8)},
        {"q.weight_s_rel": scale.float()},
    ):
        assert torch.equal(expand_stored(stored_weights(state | more)["q.weight"]), expected)
        with torch.device("meta"):
            network = nn.ModuleDict({"q": nn.Linear(*expected.shape[::-1], bias=False)})
        install_quantized_layers(network, given := state | more)
        network.load_state_dict(given, assign=True)
        assert torch.equal(expand_weight(network["q"], torch.bfloat16), expected)


def test_the_scales_of_the_scales_of_four_bits_are_those_of_256_blocks():
    state, blocks = file_of("bnb_nf4_nested"), 257
    about = json.dumps({"quant_type": "nf4", "shape": [blocks, 64], "nested_offset": 0.5}).encode()
    state |= {
        "q.weight": torch.full((blocks * 32, 1), 0xFF, dtype=torch.uint8),  # the largest number, which is 1
        "q.weight_absmax": torch.full((blocks,), 255, dtype=torch.uint8),
        "q.weight_nested_absmax": torch.tensor([2.0, 3.0]),
        "q.weight_quant_state": torch.tensor(list(about), dtype=torch.uint8),
    }
    largest = float(state["q.weight_nested_quant_map"][255])
    rows = expand_stored(stored_weights(state)["q.weight"]).float()[:, 0]
    expected = torch.tensor([2 * largest + 0.5] * 256 + [3 * largest + 0.5])
    torch.testing.assert_close(rows, expected, rtol=0.01, atol=0)


def test_every_weight_of_the_vectors_is_tested():
    others = {name for name, entry in VECTORS.items() if isinstance(entry, dict) and "weight" in "".join(entry)}
    assert others - {"key_layouts"} - FORMAT.keys() == {"awq_w4a16_g64"}


def test_scales_lie_in_tiles():
    entry = VECTORS["swizzle_32_4_4"]
    logical, stored = read(entry["logical"]), read(entry["stored"])
    rows, blocks = logical.shape
    for shape in (stored, stored.flatten(), stored.reshape(-1, 32, 16)):
        assert torch.equal(scales_of_rows(shape, blocks, 0, rows), logical)
    assert torch.equal(scales_of_rows(stored, blocks, 128, 150), logical[128:150])


def test_the_rotation():
    """It is that of the definition, and its own inverse; a Sylvester matrix, of the same entries, is another one."""
    signs = torch.tensor(VECTORS["hadamard"]["4"], dtype=torch.float32)
    assert torch.equal(rotate(torch.eye(4), 4) * 2, signs)
    assert torch.equal(rotate(torch.eye(16), 16) * 4, torch.tensor(VECTORS["hadamard"]["16_times_4_signs"]).float())
    x = torch.randn(5, 512)
    torch.testing.assert_close(rotate(rotate(x, 256), 256), x)
    assert rotate(x, 0) is x and math.isclose(float(rotate(x, 64).norm()), float(x.norm()), rel_tol=1e-5)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"q.comfy_quant": b'{"format": "int9"}'}, r"q\.weight is stored as int9; this version .* reads bf16, .*int8"),
        ({"q.comfy_quant": b'{"format": "nvfp4"}'}, r"q\.weight is marked as nvfp4, but is int8 of shape \(6, 256\)"),
        (
            {"q.comfy_quant": None},
            r"q\.weight is stored as int8 without a marker that says whether its columns are rot",
        ),
        (
            {"q.weight_scale": None},
            r"marked as int8_tensorwise, but is int8 of shape \(6, 256\) with nothing beside it",
        ),
        ({"q.weight_scale": torch.ones(5)}, r"stored as int8 of shape \(6, 256\) with scales of shape \(5,\)"),
        ({"q.weight_scale": torch.zeros(6, 1)}, r"q\.weight_scale is zero, so q\.weight would be; the file is damaged"),
        ({"q.weight_scale": torch.full((6, 1), math.nan)}, r"q\.weight_scale holds NaN or infinite numbers"),
        ({"q.weight": torch.zeros(6, 200, dtype=torch.int8)}, "200 columns rotated in groups of 256, which cannot be"),
        (
            {"q.comfy_quant": b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 6}'},
            "256 columns rotated in groups of 6, which cannot be",
        ),
        (
            {"q.comfy_quant": b'{"format": "int8_tensorwise", "params": {"format": "nvfp4"}}'},
            r"The marker beside q\.weight contradicts itself: format is int8_tensorwise and nvfp4",
        ),
        (
            {"q.comfy_quant": b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": "x"}'},
            r"The marker beside q\.weight has convrot_groupsize = 'x'; a whole number from 1 to 65,536 was expected",
        ),
    ],
)
def test_a_damaged_int8_weight_is_refused(change, found):
    refuse(file_of("int8_convrot_g256") | change, (6, 256), found)


@pytest.mark.parametrize(
    ("name", "change", "shape", "found"),
    [
        ("nvfp4_16x64", {"q.weight_scale": None}, (16, 64), "stored as uint8 with a scale"),
        ("nvfp4_16x64", {"q.weight_scale_2": torch.zeros(())}, (16, 64), r"q\.weight_scale_2 is zero"),
        ("nvfp4_16x64", {"q.weight_scale_2": torch.ones(2)}, (16, 64), r"nvfp4 with a weight_scale_2 of shape \(2,\)"),
        ("nvfp4_16x64", {"q.weight": torch.zeros(16, 30, dtype=torch.uint8)}, (16, 60), "has no whole blocks of 16"),
        ("nvfp4_16x64", {}, (32, 64), r"q\.weight is \(16, 64\) and should be \(32, 64\)"),
        (
            "nvfp4_144x80_multi_tile",
            {"q.weight": torch.zeros(144, 96, dtype=torch.uint8)},
            (144, 192),
            "scales of shape",
        ),
        ("mxfp8_32x64", {"q.weight_scale": torch.zeros(128, 8, dtype=torch.uint8)}, (32, 64), "uint8 scales of shape"),
        (
            "mxfp8_32x64",
            {"q.weight_scale": torch.full((128, 4), 255).byte()},
            (32, 64),
            "q.weight_scale holds NaN or infini",
        ),
        ("w4a8_codebook_g16_r256", {"q.weight": torch.zeros(4, 100).char()}, (4, 256), "neither 4 nor 6 bits of 256"),
        (
            "w4a8_codebook_g16_r256",
            {"q.weight_s_channel": torch.ones(3)},
            (4, 256),
            "w4a8 of 4 rows with scales of sha",
        ),
        (
            "convrot_w4a4_r256",
            {"q.weight_scale": torch.ones(2)},
            (4, 256),
            r"w4a4 of shape \(4, 256\) with scales of sh",
        ),
        (
            "bnb_nf4_plain",
            {"q.weight_absmax": torch.ones(3)},
            (16, 64),
            "four bits with 3 scales where 16 were expected",
        ),
        ("bnb_nf4_plain", {"q.weight_quant_state": None}, (16, 64), "1,024 numbers that are to be a matrix of None"),
        (
            "bnb_nf4_nested",
            {"q.weight_nested_absmax": torch.ones(9)},
            (16, 64),
            "whose 16 scales lack the 1 that they are stored with",
        ),
        ("awq_w4a16_g64", {}, (4, 128), "stored as awq_w4a16"),
        ("fp8_scaled_e4m3", {"q.weight_scale": torch.zeros(())}, (4, 16), r"q\.weight_scale is zero"),
        ("fp8_scaled_e4m3", {"q.weight_scale": torch.tensor(math.nan)}, (4, 16), r"q\.weight_scale holds NaN"),
        (
            "mxfp8_32x64",
            {"q.weight_scale": None, "q.comfy_quant": b'{"format": "mxfp8"}'},
            (32, 64),
            "marked as mxfp8, but is float8_e4m3fn",
        ),
        ("w4a8_codebook_g16_r256", {"q.weight_s_channel": torch.zeros(4)}, (4, 256), "s_channel is zero"),
        ("w4a8_codebook_g16_r256", {"q.weight_s_channel": None}, (4, 256), "marked as asym_w4a8_int8, but is"),
        ("convrot_w4a4_r256", {"q.weight_scale": torch.full((4,), math.inf)}, (4, 256), "holds NaN or infinite"),
        ("bnb_int8", {"q.SCB": torch.zeros(4)}, (4, 64), r"q\.SCB is zero"),
        ("bnb_int8", {"q.weight_format": torch.tensor(1).byte()}, (4, 64), "int8 in the order of a card"),
        ("fp8_scaled_e4m3", {"q.weight_scale": torch.ones(2)}, (4, 16), r"with float32 scales of shape \(2,\)"),
        ("fp8_scaled_e4m3", {"q.weight_scale": torch.ones(3, 5)}, (4, 16), r"with float32 scales of shape \(3, 5\)"),
    ],
)
def test_a_damaged_weight_is_refused(name, change, shape, found):
    refuse(file_of(name) | change, shape, found)


def refuse(state: dict, shape: tuple[int, int], found: str) -> None:
    state = {key: torch.tensor(list(value), dtype=torch.uint8) if isinstance(value, bytes) else value
             for key, value in state.items() if value is not None}  # fmt: skip
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(*shape[::-1], bias=False)})
    with pytest.raises(ValueError, match=found) as error:
        install_quantized_layers(network, state)
    assert "\n" not in str(error.value)


def test_bytes_become_the_same_scales_where_there_is_no_float8(monkeypatch):
    """On Apple's GPUs, where NVFP4 of GGUF files, and scales of other files that are plain bytes, could not be read."""
    scales = torch.arange(256, dtype=torch.uint8)
    expected = nibbles.as_e4m3(scales)
    monkeypatch.setattr(nibbles, "_WITHOUT_FLOAT8", ("cpu",))
    found = nibbles.as_e4m3(scales)
    assert expected.dtype == torch.float8_e4m3fn and found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=0, equal_nan=True)
    block = torch.randint(0, 120, (2, 36), dtype=torch.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(nibbles, "_WITHOUT_FLOAT8", ())
        numbers = expand_blocks("NVFP4", block)
    assert torch.equal(expand_blocks("NVFP4", block), numbers)


def test_nvfp4_with_the_first_number_in_the_lower_half():
    """As another engine writes it, with the reciprocal of the scale of all, and scales of blocks as plain bytes."""
    state = file_of("nvfp4_16x64")
    expected, packed = read(VECTORS["nvfp4_16x64"]["expected"]), state["q.weight"]
    state = {"q.weight": packed >> 4 | packed << 4, "q.weight_scale": state["q.weight_scale"].view(torch.uint8),
             "q.weight_global_scale": 1 / state["q.weight_scale_2"], "q.input_absmax": torch.ones(())}  # fmt: skip
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(64, 16, bias=False)})
    install_quantized_layers(network, given := dict(state))
    network.load_state_dict(given, assign=True)
    torch.testing.assert_close(expand_weight(network["q"], torch.float32), expected, rtol=1e-6, atol=0)
    assert not FORMATS["nvfp4"].can_multiply(stored_weights(state)["q.weight"], (16, 64))
    refuse(state | {"q.input_global_scale": torch.ones(())}, (16, 64), "nvfp4 whose scales are folded into alpha")


def test_int8_with_a_number_that_stands_for_zero():
    """As torchao writes it; the packed matrices of its other formats are refused."""
    weight, zero, scale = torch.randint(-128, 128, (6, 32)).char(), torch.arange(-3, 3).char(), torch.rand(6, 1)
    beside = {"q._weight_qdata": weight, "q._weight_scale": scale, "q._weight_zero_point": zero[:, None]}
    state = {respell(key): each for key, each in beside.items()}
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(32, 6, bias=False)})
    install_quantized_layers(network, given := dict(state))
    network.load_state_dict(given, assign=True)
    expected = (weight.float() - zero[:, None]) * scale
    assert torch.equal(expand_weight(network["q"], torch.float32), expected)
    x = torch.randn(2, 32)
    torch.testing.assert_close(network["q"](x), x @ expected.T)
    refuse(
        state | {"q.torchao_scale": torch.ones(2, 6)}, (6, 32), r"int8 of shape \(6, 32\) with scales of shape \(2, 6"
    )
    refuse(state | {"q.torchao_zero_point": torch.ones(2).char()}, (6, 32), r"with zero points of shape \(2,\)")
