"""Time and memory of one forward, beside ltx-core and diffusers with the same weights: python benchmarks/block.py

Three layers of a quarter of the width, on one CPU thread. All contenders run in every round, in turning order; what
counts is the median of the ratios within a round, since other programs slow all of a round down alike. Writes
benchmarks/results/block.json. Needs ltx-core and diffusers.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from agreement import relative_error  # noqa: E402
from official import audio_positions, official, tiny_section, video_positions  # noqa: E402
from peak import Peak  # noqa: E402

from ltx2_core.transformer import StreamInput  # noqa: E402

ROUNDS = 5
HEADS, HEAD_DIM, TEXT = 8, 128, 64
FRAMES, HEIGHT, WIDTH, AUDIO = 16, 8, 16, 16
TOKENS = FRAMES * HEIGHT * WIDTH
SIZE = {
    "num_layers": 3, "num_attention_heads": HEADS, "attention_head_dim": HEAD_DIM, "cross_attention_dim": 1024,
    "audio_num_attention_heads": HEADS, "audio_attention_head_dim": HEAD_DIM // 2, "audio_cross_attention_dim": 512,
    "in_channels": 128, "out_channels": 128, "audio_in_channels": 128, "audio_out_channels": 128,
    "caption_channels": 512,
}  # fmt: skip
HIDDEN = TOKENS * HEADS * HEAD_DIM * 4  # bytes of the hidden states of the video, our unit of memory

Forward = Callable[[], tuple[Tensor, Tensor]]


def inputs(section: dict, image: bool) -> tuple[StreamInput, StreamInput]:
    """Both streams at random; with ``image`` the first frame is given."""
    generator = torch.Generator().manual_seed(0)
    projected = "caption_proj_before_connector" in section
    sigma, timesteps = torch.tensor([0.7]), None
    if image:
        timesteps = sigma.repeat(1, TOKENS)
        timesteps[:, : HEIGHT * WIDTH] = 0

    def stream(tokens: int, positions: Tensor, context: str, timesteps: Tensor | None) -> StreamInput:
        width = section[context if projected else "caption_channels"]
        draw = [torch.randn(1, length, c, generator=generator) for length, c in ((tokens, 128), (TEXT, width))]
        return StreamInput(draw[0], sigma, positions, draw[1], timesteps)

    return (
        stream(TOKENS, video_positions(FRAMES, HEIGHT, WIDTH), "cross_attention_dim", timesteps),
        stream(AUDIO, audio_positions(AUDIO), "audio_cross_attention_dim", None),
    )


def of_ltx_core(network: torch.nn.Module, *streams: StreamInput) -> Forward:
    from ltx_core.guidance.perturbations import BatchedPerturbationConfig, PerturbationConfig
    from ltx_core.model.transformer.modality import Modality

    modalities = [
        Modality(
            latent=s.tokens, sigma=s.sigma, timesteps=s.sigma[:, None] if s.timesteps is None else s.timesteps,
            positions=s.positions, context=s.context,
        )
        for s in streams
    ]  # fmt: skip
    return lambda: network(*modalities, BatchedPerturbationConfig([PerturbationConfig([])]))


def of_diffusers(network: torch.nn.Module, section: dict, video: StreamInput, audio: StreamInput) -> Forward:
    """The same in diffusers, with the weights of ``network`` of ltx-core."""
    from diffusers.loaders.single_file_utils import convert_ltx2_transformer_to_diffusers
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel

    same = [
        "num_layers", "num_attention_heads", "attention_head_dim", "cross_attention_dim", "audio_num_attention_heads",
        "audio_attention_head_dim", "audio_cross_attention_dim", "in_channels", "out_channels", "audio_in_channels",
        "audio_out_channels", "caption_channels",
    ]  # fmt: skip
    gated, modulated = section.get("apply_gated_attention", False), section.get("cross_attention_adaln", False)
    theirs = LTX2VideoTransformer3DModel(
        **{key: section[key] for key in same}, rope_type="split", gated_attn=gated, audio_gated_attn=gated,
        cross_attn_mod=modulated, audio_cross_attn_mod=modulated,
        use_prompt_embeddings="caption_proj_before_connector" not in section,
    )  # fmt: skip
    state = convert_ltx2_transformer_to_diffusers(dict(network.state_dict()))
    for old, new in ("prompt_adaln_single", "prompt_adaln"), ("audio_prompt_adaln_single", "audio_prompt_adaln"):
        state = {key.replace(f"{old}.", f"{new}.") if key.startswith(old) else key: v for key, v in state.items()}
    theirs.load_state_dict(state)
    levels = video.sigma if video.timesteps is None else video.timesteps
    arguments = {
        "hidden_states": video.tokens, "encoder_hidden_states": video.context, "video_coords": video.positions,
        "timestep": levels * 1000, "sigma": video.sigma * 1000,
        "audio_hidden_states": audio.tokens, "audio_encoder_hidden_states": audio.context,
        "audio_timestep": audio.sigma * 1000, "audio_sigma": audio.sigma * 1000, "audio_coords": audio.positions,
        "use_cross_timestep": True, "return_dict": False,
    }  # fmt: skip
    return lambda: theirs(**arguments)


def seconds(forward: Forward) -> float:
    start = time.process_time()
    forward()
    return time.process_time() - start


def measure(release: str, image: bool) -> dict[str, dict[str, float]]:
    """For every contender: seconds, peak of activations in hidden states, and our time as a share of its time."""
    section = tiny_section(release, **SIZE)
    network, ours = official(section)
    video, audio = inputs(section, image)
    contenders: dict[str, Forward] = {
        "ours": lambda: ours(video, audio),
        "ltx-core": of_ltx_core(network, video, audio),
        "diffusers": of_diffusers(network, section, video, audio),
    }
    peaks, velocities = {}, {}
    for name, forward in contenders.items():
        with Peak() as peak:
            velocities[name] = forward()[0]
        peaks[name] = peak.bytes / HIDDEN
        # With an image, the newest official rule, which we follow, is not yet that of these releases.
        assert image or relative_error(velocities["ours"], velocities[name]) < 1e-4
    rounds: list[dict[str, float]] = []
    for index in range(ROUNDS):
        order = list(contenders)[:: -1 if index % 2 else 1]
        rounds.append({name: seconds(contenders[name]) for name in order})
    return {
        name: {
            "seconds": round(median(each[name] for each in rounds), 3),
            "ours / this": round(median(each["ours"] / each[name] for each in rounds), 3),
            "peak": round(peaks[name], 2),
        }
        for name in contenders
    }


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    figures = {}
    for release in ("2.0", "2.3"):
        for image in (False, True):
            case = f"{release}, {'first frame given' if image else 'text only'}"
            figures[case] = measure(release, image)
            print(case, *(f"\n  {name:10}{row}" for name, row in figures[case].items()), flush=True)
    about = {"date": str(date.today()), "machine": platform.processor() or platform.machine(), "tokens": TOKENS}
    about |= {name: version(name) for name in ("torch", "ltx-core", "diffusers")}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "block.json").write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
