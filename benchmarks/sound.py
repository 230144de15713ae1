"""CPU time and memory of the audio VAE and of the vocoders beside others: python -m benchmarks.sound

Networks of 2.0 and 2.3 at their real widths; 50 latents are two seconds, 60 frames of a mel spectrogram 0.6.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ltx2_core.checkpoint.keys.layouts import VOCODER_WORDS, diffusers_name

from .contest import COMFY, DIFFUSERS, LTX_CORE, OURS, ROUNDS, Case, Run, call, measure, table
from .peers import find_comfy
from .weights import Config, State, component, loaded, released

Network = Any  # of another library
LATENTS, FRAMES = 50, 60


def comfy(config: Config, state: State) -> Network:
    """Build ComfyUI's audio VAE, with its vocoder."""
    from comfy.ldm.lightricks.vae.audio_vae import AudioVAE

    network = AudioVAE({"config": config})
    named = {key.replace("audio_vae.", "autoencoder.", 1): tensor for key, tensor in state.items()}
    return loaded(network, named)


def of_comfy(network: Network, half: str, x: Tensor) -> Run:
    """Return what ComfyUI does between a mel spectrogram and latents."""
    if half == "encoder":
        return lambda: network.normalizer.normalize(network.autoencoder.encode(x).chunk(2, dim=1)[0])
    shape = network.target_shape_from_latents(x.shape)
    return lambda: network.autoencoder.decode(network.normalizer.denormalize(x), target_shape=shape)


def diffusers(state: State) -> Network:
    """Build the audio VAE of diffusers."""
    from diffusers import AutoencoderKLLTX2Audio
    from diffusers.loaders.single_file_utils import convert_ltx2_audio_vae_to_diffusers

    return loaded(AutoencoderKLLTX2Audio(), convert_ltx2_audio_vae_to_diffusers(dict(state)))


def of_diffusers(network: Network, half: str, x: Tensor) -> Run:
    """Return what diffusers' pipelines do between a mel spectrogram and latents."""
    mean, std = (each.view(8, 1, 16) for each in (network.latents_mean, network.latents_std))
    if half == "encoder":
        return lambda: (network.encode(x).latent_dist.mode() - mean) / std
    return lambda: network.decode(x * std + mean, return_dict=False)[0]


def vae_case(half: str) -> Case:
    """Return one half of the audio VAE, which all versions share."""
    config = released("2.0")
    ours, state = component(f"audio_{half}", config)
    shape = (1, 8, LATENTS, 16) if half == "decoder" else (1, 2, 4 * LATENTS - 3, 64)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    contenders: dict[str, Run] = {OURS: lambda: ours(x)}
    if find_spec("ltx_core"):
        from ltx_core.model import audio_vae

        made = getattr(audio_vae, f"Audio{half.title()}Configurator").from_config(config)
        official = loaded(made, state, "audio_vae.", f"{half}.")
        contenders[LTX_CORE] = lambda: official(x)
    if find_spec("diffusers"):
        contenders[DIFFUSERS] = of_diffusers(diffusers(state), half, x)
    if find_comfy():
        contenders[COMFY] = of_comfy(comfy(config, state), half, x)
    return Case(f"audio {half}, {LATENTS} latents", contenders)


def vocoder_case(version: str) -> Case:
    """Return the vocoder of a version."""
    config = released(version)
    ours, state = component("vocoder", config, gain=0.6)
    x = torch.randn(1, 2, FRAMES, 64, generator=torch.Generator().manual_seed(1))
    others: dict[str, Run] = {}
    if find_spec("ltx_core"):
        from ltx_core.model.audio_vae import VocoderConfigurator

        others[LTX_CORE] = call(loaded(VocoderConfigurator.from_config(config), state, "vocoder."), x)
    if find_spec("diffusers"):
        from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE

        bare = {key.removeprefix("vocoder."): tensor for key, tensor in state.items()}
        named = {diffusers_name(key, VOCODER_WORDS): tensor for key, tensor in bare.items()}
        made = LTX2VocoderWithBWE() if "bwe" in config["vocoder"] else LTX2Vocoder()
        others[DIFFUSERS] = call(loaded(made, named), x)
    if find_comfy():
        others[COMFY] = call(comfy(config, state).vocoder, x.mT)
    return Case(f"vocoder {version}, {FRAMES} frames", {OURS: call(ours, x), **others})


def cases() -> Iterator[Case]:
    """Yield every case."""
    yield from map(vae_case, ("encoder", "decoder"))
    yield from map(vocoder_case, ("2.0", "2.3"))


def main(rounds: int = ROUNDS) -> str:
    """Measure every case, and return the table."""
    torch.set_num_threads(1)
    return table(measure(case, rounds) for case in cases())


if __name__ == "__main__":
    print(main())
