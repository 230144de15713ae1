"""Matrices in every format, written as the libraries write them: what stands in a file in place of ``X.weight``.

A writer takes a float32 matrix (out, in) and returns tensors by what follows the name of the module.
"""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import golden
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from ltx2_core.checkpoint.files import DTYPES
from ltx2_core.quantization import respell
from ltx2_core.quantization.rotation import rotate

Written = dict[str, Tensor]

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
GROUP = 64  # columns that are rotated together, which the narrowest matrix of the miniature has
VECTORS = golden.vectors("formats")  # what the libraries wrote
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip


def read(entry: dict) -> torch.Tensor:
    content = bytearray(base64.b64decode(entry["b64"]))
    if "dtype" not in entry:  # a marker
        return torch.frombuffer(content, dtype=torch.uint8)
    dtype = DTYPES[entry["dtype"]]
    return torch.frombuffer(content, dtype=dtype).reshape(entry["shape"]) if content else torch.empty(entry["shape"])


def file_of(name: str, module: str = "q") -> dict[str, torch.Tensor]:
    """The tensors of one layer, named as a reader of files names them."""
    return {
        respell(f"{module}.{key}"): read(entry)
        for key, entry in VECTORS[name].items()
        if key == "comfy_quant" or (key.startswith("weight") and isinstance(entry, dict))
    }


# The format of each of the vectors, and by how much its numbers may differ: where something is rotated, sums come in
# another order.
FORMAT = {
    "fp8_scaled_e4m3": ("fp8", 0),
    "fp8_scaled_e5m2": ("fp8", 0),
    "fp8_cast_of_prequant": ("fp8", 0),
    "nvfp4_16x64": ("nvfp4", 0),
    "nvfp4_padded_20x40": ("nvfp4", 0),
    "nvfp4_144x80_multi_tile": ("nvfp4", 0),
    "mxfp8_32x64": ("mxfp8", 0),
    "mxfp8_padded_8x48": ("mxfp8", 0),
    "int8_tensorwise": ("int8", 0),
    "int8_rowwise": ("int8", 0),
    "int8_convrot_g16": ("int8", 1e-6),
    "int8_convrot_g64": ("int8", 1e-6),
    "int8_convrot_g256": ("int8", 1e-6),
    "w4a8_codebook_g16_r256": ("w4a8", 1e-6),
    "w4a8_uniform_g16_r64": ("w4a8", 1e-6),
    "w4a8_asymmetric_correction_g32_r64": ("w4a8", 1e-6),
    "w6a8_uniform_g16_r256": ("w4a8", 1e-6),
    "convrot_w4a4_r256": ("w4a4", 1e-6),
    "bnb_int8": ("int8", 1e-7),
    "bnb_nf4_plain": ("nf4", 0),
    "bnb_nf4_nested": ("nf4", 0),
    "quanto_qint8": ("int8", 0),
}


def expected_of(name: str) -> tuple[torch.Tensor, torch.dtype]:
    """The numbers, and the dtype that they were computed in."""
    of_bfloat16 = VECTORS[name].get("expected_bf16_as_f32")
    return read(of_bfloat16 or VECTORS[name]["expected"]), torch.bfloat16 if of_bfloat16 else torch.float32


def as_bytes(**content) -> Tensor:
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def of_bytes(weight: Tensor) -> Written:
    """int8 with a scale for each row, without its marker."""
    scale = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
    return {".weight": (weight / scale).round().clamp(-128, 127).char(), ".weight_scale": scale}


def int8_tensor(weight: Tensor) -> Written:
    scale = weight.abs().max() / 127
    stored = {".weight": (weight / scale).round().char(), ".weight_scale": scale}
    return stored | {".comfy_quant": as_bytes(format="int8_tensorwise")}


def int8_blocks(weight: Tensor) -> Written:
    blocks = weight.unflatten(1, (-1, 32)).unflatten(0, (-1, min(16, len(weight))))
    scale = blocks.abs().amax((1, 3), keepdim=True) / 127
    stored = (blocks / scale.clamp(min=1e-30)).round().reshape(weight.shape).char()
    marker = as_bytes(format="int8_blockwise", group_size=16)
    return {".weight": stored, ".weight_scale": scale[:, 0, :, 0], ".comfy_quant": marker}


def int8_convrot(weight: Tensor) -> Written:
    how = {"convrot": True, "convrot_groupsize": GROUP}
    return of_bytes(rotate(weight, GROUP)) | {".comfy_quant": as_bytes(format="int8_tensorwise", params=how)}


def quanto_int8(weight: Tensor) -> Written:
    stored, one = of_bytes(weight), torch.ones((), dtype=torch.bfloat16)
    beside = {".weight._data": stored[".weight"], ".weight._scale": stored[".weight_scale"].bfloat16()}
    return beside | {".input_scale": one, ".output_scale": one.clone()}


def bitsandbytes_int8(weight: Tensor) -> Written:
    stored = of_bytes(weight)
    scale = stored[".weight_scale"].flatten() * 127
    return {".weight": stored[".weight"], ".SCB": scale, ".weight_format": torch.zeros((), dtype=torch.uint8)}


def fp8_blocks(weight: Tensor) -> Written:
    blocks = weight.unflatten(1, (-1, 32)).unflatten(0, (-1, min(16, len(weight))))
    scale = blocks.abs().amax((1, 3), keepdim=True) / 448
    return {
        ".weight": (blocks / scale).reshape(weight.shape).to(torch.float8_e4m3fn),
        ".weight_scale": scale[:, 0, :, 0],
    }


def fp8_columns(weight: Tensor) -> Written:
    blocks = weight.unflatten(1, (-1, 16))
    scale = blocks.abs().amax(2, keepdim=True) / 448
    return {".weight": (blocks / scale).flatten(1).to(torch.float8_e4m3fn), ".weight_scale": scale}


def tiles(scales: Tensor) -> Tensor:
    """Scales (rows, blocks) in the order of cards."""
    rows, blocks = (-(-side // step) * step for side, step in zip(scales.shape, (128, 4)))
    whole = torch.zeros(rows, blocks, dtype=scales.dtype)
    whole[: scales.shape[0], : scales.shape[1]] = scales
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(blocks), indexing="ij")
    place = ((r // 128) * (blocks // 4) + c // 4) * 512 + (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4
    stored = torch.empty(rows * blocks, dtype=scales.dtype)
    stored[place.flatten()] = whole.flatten()
    return stored.reshape(rows, blocks)


def padded(weight: Tensor, side: int) -> Tensor:
    return pad(weight, (0, -weight.shape[1] % side, 0, -weight.shape[0] % side))


def pairs(codes: Tensor, high_first: bool = False) -> Tensor:
    first, second = codes[..., ::2].byte(), codes[..., 1::2].byte()
    return first << 4 | second if high_first else first | second << 4


def nearest(numbers: Tensor, table: Tensor) -> Tensor:
    return (numbers[..., None] - table).abs().argmin(-1)


def nvfp4(weight: Tensor) -> Written:
    weight = padded(weight, 16)
    of_all, blocks = weight.abs().max() / 2688, weight.unflatten(1, (-1, 16))
    scale = (blocks.abs().amax(2) / 6 / of_all).clamp(max=448).to(torch.float8_e4m3fn)
    numbers = blocks / (scale.float() * of_all).clamp(min=1e-30)[..., None]
    codes = nearest(numbers.abs(), E2M1) + 8 * (numbers < 0)
    stored = {".weight": pairs(codes.flatten(1), high_first=True), ".weight_scale_2": of_all}
    scales = tiles(scale.view(torch.uint8)).view(torch.float8_e4m3fn)
    return stored | {".weight_scale": scales, ".comfy_quant": as_bytes(format="nvfp4")}


def mxfp8(weight: Tensor) -> Written:
    blocks = padded(weight, 32).unflatten(1, (-1, 32))
    exponent = ((blocks.abs().amax(2) / 448).log2().ceil() + 127).clamp(0, 254)
    stored = (blocks / (exponent - 127).exp2()[..., None]).flatten(1).to(torch.float8_e4m3fn)
    return {".weight": stored, ".weight_scale": tiles(exponent.byte()), ".comfy_quant": as_bytes(format="mxfp8")}


def w4a8(weight: Tensor) -> Written:
    whole = of_bytes(rotate(weight, GROUP))
    groups = whole[".weight"].float().unflatten(1, (-1, 16))
    relative = (groups.abs().amax(2) / 7).to(torch.float8_e4m3fn)
    codes = (groups / relative.float()[..., None].clamp(min=1e-3)).round().clamp(-8, 7) + 8
    stored = {".weight": pairs(codes.flatten(1)).char(), ".weight_s_rel": relative}
    how = {"group_size": 16, "convrot_groupsize": GROUP}
    marker = as_bytes(format="asym_w4a8_int8", **how)
    return stored | {".weight_s_channel": whole[".weight_scale"].flatten(), ".comfy_quant": marker}


def w4a4(weight: Tensor) -> Written:
    rotated = rotate(weight, GROUP)
    scale = rotated.abs().amax(1) / 7
    codes = (rotated / scale[:, None]).round().clamp(-7, 7).char()
    marker = as_bytes(format="convrot_w4a4", convrot_groupsize=GROUP)
    return {".weight": pairs(codes & 15).view(torch.int8), ".weight_scale": scale, ".comfy_quant": marker}


def nf4(weight: Tensor) -> Written:
    blocks = weight.reshape(-1, 64)
    absmax = blocks.abs().amax(1)
    codes = nearest(blocks / absmax[:, None], NF4)
    state = as_bytes(quant_type="nf4", blocksize=64, dtype="bfloat16", shape=list(weight.shape))
    return {
        ".weight": pairs(codes.reshape(1, -1), high_first=True).reshape(-1, 1),
        ".weight.absmax": absmax,
        ".weight.quant_map": NF4.clone(),
        ".weight.quant_state.bitsandbytes__nf4": state,
    }


# By name: how it is written, and the row of formats that reads it.
WRITERS: dict[str, tuple[Callable[[Tensor], Written], str]] = {
    "fp8 in blocks": (fp8_blocks, "fp8"),
    "fp8 in columns": (fp8_columns, "fp8"),
    "int8 of the tensor": (int8_tensor, "int8"),
    "int8 in blocks": (int8_blocks, "int8"),
    "int8 rotated": (int8_convrot, "int8"),
    "int8 of quanto": (quanto_int8, "int8"),
    "int8 of bitsandbytes": (bitsandbytes_int8, "int8"),
    "nvfp4": (nvfp4, "nvfp4"),
    "mxfp8": (mxfp8, "mxfp8"),
    "w4a8": (w4a8, "w4a8"),
    "w4a4": (w4a4, "w4a4"),
    "nf4": (nf4, "nf4"),
}


def rewrite(source: Path, target: Path, names: dict[str, str]) -> list[str]:
    """Write a file anew with matrices in formats; return their names.

    Args:
        source: a safetensors file.
        target: the new one.
        names: by a pattern, the writer of the matrices in whose names it is found; the first counts.
    """
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    state, written = load_file(source), []
    for key in list(state):
        name = next((name for pattern, name in names.items() if re.search(pattern, key)), None)
        if name is not None and key.endswith(".weight") and state[key].ndim == 2:
            made = WRITERS[name][0](state.pop(key).float())
            state |= {key.removesuffix(".weight") + end: tensor.contiguous() for end, tensor in made.items()}
            written.append(key)
    save_file(state, target, metadata)
    return written


def write_mixed_gemma(folder: Path, path: Path) -> None:
    """Gemma as ``gemma_3_12B_it_fp4_mixed.safetensors`` has it: names, markers and tokenizer of ComfyUI; most matrices
    in nvfp4, some in float8 and some left in bfloat16, as are table, norms and what sees pictures."""
    written = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        name = key.replace("language_model.model.", "model.").replace("vision_tower.vision_model.", "vision_model.")
        matrix = re.fullmatch(r"(model\.layers\.(\d+)\..*_proj)\.weight", name)
        if matrix is None or ("down_proj" in name and matrix[2] == "5"):
            written[name] = tensor
        elif "o_proj" in name or matrix[2] == "0":
            scale = tensor.float().abs().max() / 448
            written |= {name: (tensor.float() / scale).to(torch.float8_e4m3fn), f"{matrix[1]}.weight_scale": scale}
            written[f"{matrix[1]}.comfy_quant"] = as_bytes(format="float8_e4m3fn")
        else:
            written |= {f"{matrix[1]}{end}": each for end, each in WRITERS["nvfp4"][0](tensor.float()).items()}
    tokenizer = torch.frombuffer(bytearray((folder / "tokenizer.model").read_bytes()), dtype=torch.uint8)
    written |= {"spiece_model": tokenizer, "multi_modal_projector.mm_soft_emb_norm.weight": torch.ones(16).bfloat16()}
    save_file({name: tensor.contiguous() for name, tensor in written.items()}, path)
