"""CPU time and memory of the video VAE and of the upscaler beside others: python -m benchmarks.codecs

Decoders and encoders of 2.0 and 2.3 at their real widths over a small clip, and decoders of a quarter of the width over
a larger one; the upscaler of 2.0 at its real width over two small latents.
"""

import json
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltx2_core.checkpoint.keys.upscaler import UPSCALER
from ltx2_core.checkpoint.upscaler import build_upscaler, open_upscaler

from .contest import COMFY, DIFFUSERS, LTX_CORE, OURS, Case, Run, call, measure, table
from .no_card import write_zeros
from .peers import find_comfy
from .weights import Config, State, component, drawn, loaded, released

ROUNDS = 3
Network = Any  # of another library
HALVES = ("decoder", "encoder")
SIZES = {"9 frames of 128 x 128": (1, 9, 128), "a quarter of the width, 25 frames of 256 x 256": (4, 25, 256)}
UPSCALED = ((3, 8, 8), (2, 6, 6))


def ltx_core(half: str, config: Config, state: State) -> nn.Module:
    """Build half a video VAE of ltx-core."""
    from ltx_core.model.video_vae import model_configurator

    with torch.device("meta"):
        network = getattr(model_configurator, f"Video{half.title()}Configurator").from_config(config)
    return loaded(network, state, "vae.", f"{half}.")


def diffusers(config: Config, state: State) -> nn.Module:
    """Build the video VAE of diffusers, that of 2.0."""
    from diffusers import AutoencoderKLLTX2Video
    from diffusers.loaders.single_file_utils import convert_ltx2_vae_to_diffusers

    width = config["vae"]["decoder_base_channels"]
    with torch.device("meta"):
        network = AutoencoderKLLTX2Video(
            decoder_block_out_channels=(2 * width, 4 * width, 8 * width), decoder_causal=False
        )
    return loaded(network, convert_ltx2_vae_to_diffusers(dict(state)))


def comfy(config: Config, state: State) -> nn.Module:
    """Build ComfyUI's video VAE."""
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    with torch.device("meta"):
        network = VideoVAE(config=config["vae"])
    return loaded(network, state, "vae.")


def of_diffusers(network: Network, half: str, x: Tensor) -> Run:
    """Return what diffusers' pipelines do to encode or decode ``x``."""
    mean, std = (each[:, None, None, None] for each in (network.latents_mean, network.latents_std))
    if half == "decoder":
        return lambda: network.decode(x * std + mean, return_dict=False)[0]
    return lambda: (network.encode(x).latent_dist.mode() - mean) / std


def video_case(half: str, version: str, narrow: int, frames: int, side: int) -> Case:
    """Return one half of a video VAE, its channels divided by ``narrow``, over a clip."""
    config = released(version)
    config["vae"]["decoder_base_channels"] //= narrow
    generator = torch.Generator().manual_seed(1)
    latent = (1, 128, (frames - 1) // 8 + 1, side // 32, side // 32)
    x = torch.randn((1, 3, frames, side, side) if half == "encoder" else latent, generator=generator)
    ours, state = component(f"video_{half}", config, gain=1.5)
    contenders: dict[str, Run] = {OURS: lambda: ours(x)}
    if find_spec("ltx_core"):
        official = ltx_core(half, config, state)
        contenders[LTX_CORE] = lambda: official(x)
    if find_spec("diffusers") and version == "2.0":
        contenders[DIFFUSERS] = of_diffusers(diffusers(config, state), half, x)
    if find_comfy():
        own = comfy(config, state)
        contenders[COMFY] = (lambda: own.decode(x)) if half == "decoder" else lambda: own.encode(x)
    size = next(name for name, each in SIZES.items() if each == (narrow, frames, side))
    return Case(f"{half} {version}, {size}", contenders)


def upscaler_case(size: tuple[int, int, int]) -> Case:
    """Return the upscaler of 2.0, x2 in space, over a latent of so many frames, rows and columns."""
    section = {"mid_channels": 1024, "in_channels": 128, "dims": 3}
    with tempfile.TemporaryDirectory() as folder:
        shapes = {key: tuple(tensor.shape) for key, tensor in _of_ltx_core(section).state_dict().items()}
        path = write_zeros(Path(folder) / "upscaler.safetensors", shapes, {"config": json.dumps(section)})
        ours = drawn(build_upscaler(open_upscaler(path), torch.float32), gain=1.5)
    state = {UPSCALER.official(name): tensor for name, tensor in ours.state_dict().items()}
    x = torch.randn(1, 128, *size, generator=torch.Generator().manual_seed(1))
    others: dict[str, nn.Module] = {}
    with torch.device("meta"):
        others[LTX_CORE] = _of_ltx_core(section)
        if find_spec("diffusers"):
            from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

            others[DIFFUSERS] = LTX2LatentUpsamplerModel(**section, use_rational_resampler=False)
        if find_comfy():
            import comfy.ops
            from comfy.ldm.lightricks.latent_upsampler import LatentUpsampler

            others[COMFY] = LatentUpsampler(comfy.ops.disable_weight_init, **section)
    runs = {name: call(loaded(network, state), x) for name, network in others.items()}
    return Case(f"upscaler x2, latent of {' x '.join(map(str, size))}", {OURS: call(ours, x), **runs})


def _of_ltx_core(section: Config) -> nn.Module:
    from ltx_core.model.upsampler import LatentUpsamplerConfigurator

    with torch.device("meta"):
        network: nn.Module = LatentUpsamplerConfigurator.from_config(section)
    return network


def cases() -> Iterator[Case]:
    """Yield every case; encoders have one width."""
    for version in ("2.0", "2.3"):
        for half in HALVES:
            for size in list(SIZES.values())[: 1 if half == "encoder" else None]:
                yield video_case(half, version, *size)
    if find_spec("ltx_core"):
        yield from map(upscaler_case, UPSCALED)


def main(rounds: int = ROUNDS) -> str:
    """Measure every case, and return the table."""
    torch.set_num_threads(1)
    return table(measure(case, rounds) for case in cases())


if __name__ == "__main__":
    print(main())
