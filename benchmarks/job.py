"""CPU time of a whole clip of the miniature beside others with its weights: python -m benchmarks.job

Sampling with text guidance, then frames and sound; the contexts of both prompts are known. Ours is all that
``generate`` does, with files that are opened; the others are their networks in a bare loop over the same noise.
"""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from official import audio_positions, video_positions
from torch import Tensor

import ltx2_core as ltx2
from ltx2_core.checkpoint import build
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.pipeline.encode_text import ConnectorConfig, contexts_cache
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.transformer import StreamInput

from . import codecs, peers, sound
from .contest import COMFY, LTX_CORE, OURS, Case, Run, measure, table
from .weights import Config, State, loaded

ROUNDS, SEED, SCALE = 3, 7, 3.0
PROMPT, NEGATIVE = "a red ball bounces twice on the left", "blurry"
ROWS = 128  # of a context
SIDE, FRAMES, CLIP, AUDIO = 96, 33, (5, 3, 3), 34  # pixels and frames; latents of either stream
SIGMAS = (1.0, 0.99, 0.975, 0.95, 0.9, 0.8, 0.6, 0.3, 0.0)

Pass = Callable[[StreamInput, StreamInput], peers.Forward]
Decode = Callable[[Tensor], Tensor]
Contexts = tuple[Tensor, Tensor]  # of video and audio


def ours(models: ltx2.Models, folder: Path) -> Run:
    """Return a call that makes the clip; ``folder`` holds what prompts say."""
    guidance = ltx2.Guidance(SCALE)
    settings: Config = {
        "negative": NEGATIVE, "width": SIDE, "height": SIDE, "frames": FRAMES, "seed": SEED,
        "sigmas": SIGMAS, "sampler": "euler", "video": guidance, "audio": guidance, "device": "cpu", "cache": folder,
    }  # fmt: skip

    def make() -> Tensor:
        clip = ltx2.generate(models, PROMPT, **settings)
        assert clip.waveform is not None
        return clip.frames

    return make


def loop(forward: Pass, prompts: list[Contexts], decode_video: Decode, decode_audio: Decode) -> Run:
    """Return a call that makes the clip with the networks of another library."""

    def velocity(tokens: tuple[Tensor, Tensor], sigma: float, contexts: Contexts) -> tuple[Tensor, Tensor]:
        level = torch.tensor([sigma])
        video = StreamInput(tokens[0], level, video_positions(*CLIP), contexts[0])
        return forward(video, StreamInput(tokens[1], level, audio_positions(AUDIO), contexts[1]))()

    def make() -> Tensor:
        generator = torch.Generator().manual_seed(SEED)
        sizes = torch.Size(CLIP).numel(), AUDIO
        tokens = torch.randn(1, sizes[0], 128, generator=generator), torch.randn(1, sizes[1], 128, generator=generator)
        for sigma, following in pairwise(SIGMAS):
            pairs = zip(*(velocity(tokens, sigma, contexts) for contexts in prompts))
            guided = [plain + (SCALE - 1) * (plain - negative) for plain, negative in pairs]
            tokens = tokens[0] + guided[0] * (following - sigma), tokens[1] + guided[1] * (following - sigma)
        decode_audio(tokens[1].unflatten(2, (8, -1)).transpose(1, 2))
        pixels = decode_video(tokens[0].mT.unflatten(2, CLIP))
        return (pixels[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1)

    return make


def of_ltx_core(config: Config, state: State, prompts: list[Contexts]) -> Run:
    """Return the clip of ltx-core."""
    from ltx_core.model import audio_vae

    network = peers.ltx_core(config["transformer"], peers.bare(state))
    video = codecs.ltx_core("decoder", config, state)
    audio = loaded(audio_vae.AudioDecoderConfigurator.from_config(config), state, "audio_vae.", "decoder.")
    vocoder = loaded(audio_vae.VocoderConfigurator.from_config(config), state, "vocoder.")
    return loop(lambda *streams: peers.of_ltx_core(network, *streams), prompts, video, lambda x: vocoder(audio(x)))


def of_comfy(config: Config, state: State, prompts: list[Contexts]) -> Run:
    """Return the clip of ComfyUI's networks."""
    network = peers.comfy(config["transformer"], peers.bare(state))
    video, audio = codecs.comfy(config, state), sound.comfy(config, state)
    return loop(lambda *streams: peers.of_comfy(network, *streams, CLIP), prompts, video.decode, audio.decode)


def keep_contexts(models: ltx2.Models, folder: Path) -> list[Contexts]:
    """Keep contexts at random for both prompts as if they had been read before, and return them."""
    cache = contexts_cache(LocalEngine(models, ltx2.Request.of(PROMPT, device="cpu").resources), folder)
    section, generator, prompts = models.config["transformer"], torch.Generator().manual_seed(1), list[Contexts]()
    for prompt in (PROMPT, NEGATIVE):
        widths = [ConnectorConfig.from_json(section, stream).width for stream in ("video", "audio")]
        video, audio = (torch.randn(1, ROWS, width, generator=generator) for width in widths)
        cache.keep(prompt, video=video, audio=audio)
        prompts.append((video, audio))
    return prompts


def case_of(folder: Path) -> Case:
    """Return the clip; what both prompts say is known."""
    models = ltx2.open_models("miniature")
    prompts, config, state = keep_contexts(models, folder), models.config, State()
    for name in models.sources:
        official = COMPONENTS[name].variant_for(config).keys.official
        state |= {official(key): tensor for key, tensor in build(models, name, torch.float32).state_dict().items()}
    contenders = {OURS: ours(models, folder)}
    if find_spec("ltx_core"):
        contenders[LTX_CORE] = of_ltx_core(config, state, prompts)
    if peers.find_comfy():
        contenders[COMFY] = of_comfy(config, state, prompts)
    name = f"miniature, {SIDE} x {SIDE} x {FRAMES}, {len(SIGMAS) - 1} steps, two passes"
    return Case(name, contenders, far={LTX_CORE: 0.02, COMFY: 1.0})  # edges move with an eps of its own


def main(rounds: int = ROUNDS) -> str:
    """Measure the clip, and return the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        return table([measure(case_of(Path(folder)), rounds)])


if __name__ == "__main__":
    print(main())
