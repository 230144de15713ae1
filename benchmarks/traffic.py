"""Bytes and operations of one block beside other implementations, counted on shapes: python -m benchmarks.traffic

Everything runs on the meta device, as on a CUDA card: a norm and attention are one kernel each, and what matrix
products and attention move is left out, but not how quantised products round their inputs. One clip of 1280 x 704 x
121, 14 080 tokens. Bytes are in h, the hidden states of the video once. Quantised are all matrices of a block but
gates, as `convert --keep gates` writes them; official files of fp8 have one scale for the inputs of each layer, and one
for its weight. Contenders that are not installed are left out; ComfyUI is found by COMFYUI_PATH, else in
~/comfy/ComfyUI.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ltx2_core.memory.trace import Cost, cost
from ltx2_core.quantization import FORMATS, install_quantized_layers, kept_names, outline_of, use_scaled_products
from ltx2_core.transformer import StreamInput, Transformer, TransformerConfig, count_with

from .markdown import markdown
from .peers import diffusers, find_comfy, of_diffusers, of_ltx_core
from .weights import released

# What a card may have, and the plain way.
OURS = {
    "plain PyTorch": (),
    "+ cuBLASLt": ("cuBLASLt",),
    "+ comfy-kitchen": ("cuBLASLt", "comfy-kitchen"),
    "+ Triton": ("cuBLASLt", "comfy-kitchen", "Triton"),
}
# Formats in which products are made, and the scale of a layer's inputs, if files have one: of unknown size, all differ.
QUANTISED = {
    "fp8": ("fp8", None), "fp8 of files, equal scales": ("fp8", torch.tensor(0.02)),
    "fp8 of files, other scales": ("fp8", torch.empty((), device="meta")), "int8": ("int8", None),
    "nvfp4": ("nvfp4", None),
}  # fmt: skip
TOKENS, AUDIO, TEXT = 14_080, 126, 1024

Run = Callable[[], Any]


def hidden_bytes(section: dict[str, Any]) -> int:
    """Return h: the bytes of the hidden states of the video."""
    return TOKENS * TransformerConfig.from_json(section).video.width * 2


def streams(config: TransformerConfig) -> tuple[StreamInput, StreamInput]:
    """Return both streams as shapes, with one noise level."""

    def stream(tokens: int, axes: int, width: int) -> StreamInput:
        half = {"device": "meta", "dtype": torch.bfloat16}
        positions, sigma = torch.empty(1, axes, tokens, 2, device="meta"), torch.empty(1, device="meta")
        return StreamInput(torch.empty(1, tokens, 128, **half), sigma, positions, torch.empty(1, TEXT, width, **half))

    widths = [config.caption_width or each.context_width for each in (config.video, config.audio)]
    return stream(TOKENS, 3, widths[0]), stream(AUDIO, 1, widths[1])


def of_ours(section: dict[str, Any]) -> Run:
    """Return one pass of this project's transformer."""
    return _pass_of(_ours(section), section)


def of_quantised(format: str, input_scale: Tensor | None, section: dict[str, Any]) -> Run:
    """Return one pass of it with all matrices of its blocks but gates in a format, which a card multiplies in.

    Args:
        format: a row of FORMATS.
        input_scale: of each of these layers, (), whose weight has one, too; None if each token and row has its own.
        section: what the checkpoint says of its transformer.
    """
    network = _ours(section)
    state = network.state_dict()
    is_kept = kept_names(state, ("ends", "gates"))
    for name, weight in list(state.items()):
        if weight.ndim == 2 and name.endswith(".weight") and not is_kept(name):
            made = outline_of(FORMATS[format], tuple(weight.shape))
            if input_scale is not None:
                made |= {"input_scale": input_scale.clone(), "weight_scale": torch.empty((), device="meta")}
            state |= {name.removesuffix("weight") + suffix: each for suffix, each in made.items()}
    install_quantized_layers(network, state)
    use_scaled_products(network, ["meta"])
    return _pass_of(network.requires_grad_(False), section)


def _ours(section: dict[str, Any]) -> Transformer:
    with torch.device("meta"):
        return Transformer(TransformerConfig.from_json(section)).bfloat16().requires_grad_(False)


def _pass_of(network: Transformer, section: dict[str, Any]) -> Run:
    video, audio = _streams_of(section)
    return lambda: network(video, audio)


def of_official(section: dict[str, Any]) -> Run:
    """Return one pass of ltx-core, with a noise level for every token as its pipelines send it."""
    from dataclasses import replace

    network = _official(section)
    inputs = [replace(s, timesteps=s.sigma[:, None].expand(s.tokens.shape[:2])) for s in _streams_of(section)]
    return of_ltx_core(network, *inputs)


def of_diffusers_network(section: dict[str, Any]) -> Run:
    """Return one pass of diffusers."""
    video, audio = _streams_of(section)
    return of_diffusers(diffusers(section, _official(section).state_dict()), video, audio)


def _streams_of(section: dict[str, Any]) -> tuple[StreamInput, StreamInput]:
    return streams(TransformerConfig.from_json(section))


def _official(section: dict[str, Any]) -> torch.nn.Module:
    from ltx_core.model.transformer.model_configurator import LTXModelConfigurator

    with torch.device("meta"):
        return LTXModelConfigurator.from_config({"transformer": section}).bfloat16().eval()


def count_difference(make: Callable[[dict[str, Any]], Run], section: dict[str, Any]) -> Cost:
    """Return what one block costs: what three blocks cost more than two."""
    _, two, three = (cost(make(section | {"num_layers": layers})) for layers in (1, 2, 3))  # the first fills caches
    return three - two


def count_comfy(section: dict[str, Any]) -> Cost:
    """Return what a block of ComfyUI's own model costs, with the kernels of comfy-kitchen."""
    from comfy.ldm.lightricks.av_model import BasicAVTransformerBlock, CompressedTimestep

    config, half = TransformerConfig.from_json(section), {"device": "meta", "dtype": torch.bfloat16}
    (dv, da), gated, modulated = (config.video.width, config.audio.width), config.gated, config.text_modulation
    block = BasicAVTransformerBlock(
        dv, da, config.video.heads, config.audio.heads, config.video.head_dim, config.audio.head_dim, dv, da,
        apply_gated_attention=gated, cross_attention_adaln=modulated, operations=torch.nn, **half,
    ).eval()  # fmt: skip

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, **half)

    def rows(count: int, width: int) -> Any:
        return CompressedTimestep(empty(1, 1, count * width), None)

    def table(tokens: int, width: int) -> tuple[Tensor, bool]:
        return empty(1, tokens, 32, width // 64, 2, 2), True

    arguments = {
        "v_context": empty(1, TEXT, dv), "a_context": empty(1, TEXT, da),
        "v_timestep": rows(config.modulation_rows, dv), "a_timestep": empty(1, 1, config.modulation_rows * da),
        "v_pe": table(TOKENS, dv), "a_pe": table(AUDIO, da),
        "v_cross_pe": table(TOKENS, da), "a_cross_pe": table(AUDIO, da),
        "v_cross_scale_shift_timestep": rows(4, dv), "a_cross_scale_shift_timestep": empty(1, 1, 4 * da),
        "v_cross_gate_timestep": rows(1, dv), "a_cross_gate_timestep": empty(1, 1, da),
        "v_prompt_timestep": empty(1, 1, 2 * dv), "a_prompt_timestep": empty(1, 1, 2 * da), "transformer_options": {},
    }  # fmt: skip
    return cost(lambda: block((empty(1, TOKENS, dv), empty(1, AUDIO, da)), **arguments))


def count(version: str) -> dict[str, Cost]:
    """Return what one block of ``version`` costs in every implementation that is there."""
    section = released(version)["transformer"]
    found = {}
    for name, kernels in OURS.items():
        with count_with(*kernels):
            found[f"ours, {name}"] = count_difference(of_ours, section)
    with count_with(*kernels):  # the last ones, all
        for name, row in QUANTISED.items():
            found[f"ours, {name}"] = count_difference(partial(of_quantised, *row), section)
    if find_spec("ltx_core"):
        found["ltx-core"] = count_difference(of_official, section)
        if find_spec("diffusers"):
            found["diffusers"] = count_difference(of_diffusers_network, section)
    if find_comfy():
        found["ComfyUI"] = count_comfy(section)
    return found


def main() -> str:
    """Return a table: bytes in h, those beside ours in bf16 with all kernels, and operations, of one block."""
    rows = []
    for version in ("2.0", "2.3"):
        hidden, counted = hidden_bytes(released(version)["transformer"]), count(version)
        ours = counted[f"ours, {list(OURS)[-1]}"].moved
        for name, found in counted.items():
            figures = f"{found.moved / hidden:.1f}", f"{found.moved / ours:.2f}", f"{found.launches:.0f}"
            rows.append([version, name, *figures])
    return markdown(["version", "", "h per block", "beside ours with all kernels", "operations per block"], rows)


if __name__ == "__main__":
    print(main())
