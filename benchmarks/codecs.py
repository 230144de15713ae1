"""CPU time and memory of the video VAE beside ltx-core with the same weights: python -m benchmarks.codecs

Decoders and encoders of 2.0 and 2.3 at their real widths over a small clip, and of a quarter of the width over a larger
one, on one CPU thread. Both run in every round, in turning order; what counts is the median of the ratios.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from peak import Peak  # noqa: E402

from benchmarks.block import seconds  # noqa: E402
from benchmarks.markdown import markdown  # noqa: E402
from ltx2_core.checkpoint.components import COMPONENTS  # noqa: E402
from ltx2_core.checkpoint.keys.video_vae import VIDEO_DECODER, VIDEO_ENCODER  # noqa: E402

ROUNDS = 3
HALVES = {"decoder": VIDEO_DECODER, "encoder": VIDEO_ENCODER}  # how their tensors are named
CASES = {"9 frames 128x128": (1, (9, 128)), "a quarter of the width, 25 frames 256x256": (4, (25, 256))}


def pair(half: str, config: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Return our half of the VAE and that of ltx-core, with the same random weights."""
    from ltx_core.model.video_vae import model_configurator

    theirs = getattr(model_configurator, f"Video{half.title()}Configurator").from_config({"vae": config}).eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in theirs.state_dict().items():
        gain = 1.5 / math.sqrt(tensor[0].numel()) if tensor.ndim > 1 else 0.1
        tensor.copy_(gain * torch.randn(tensor.shape, generator=generator) + (1.0 if "std" in name else 0.0))
    ours, keys = COMPONENTS[f"video_{half}"].make({"vae": config}, {}), HALVES[half]
    prefixes = {name: name if name.startswith("per_channel") else f"{half}.{name}" for name in theirs.state_dict()}
    ours.load_state_dict({keys.ours(prefixes[name], ""): tensor for name, tensor in theirs.state_dict().items()})
    return ours.requires_grad_(False), theirs.requires_grad_(False)


def narrowed(config: dict[str, Any], by: int) -> dict[str, Any]:
    """Return the config with its channels divided ``by`` a number."""
    names = [name for name in ("encoder_base_channels", "decoder_base_channels", "base_channels") if name in config]
    return config | {name: config[name] // by for name in names}


def inputs(half: str, frames: int, side: int) -> Tensor:
    """Return a latent or pixels at random."""
    generator = torch.Generator().manual_seed(1)
    latent = (1, 128, (frames - 1) // 8 + 1, side // 32, side // 32)
    return torch.randn((1, 3, frames, side, side) if half == "encoder" else latent, generator=generator)


def measure(half: str, config: dict[str, Any], frames: int, side: int) -> list[str]:
    """Return our seconds, the median of the ratios to ltx-core, and the peaks of both in MB."""
    x, networks = inputs(half, frames, side), pair(half, config)
    runs: list[Callable[[], Tensor]] = [lambda each=each: each(x) for each in networks]
    peaks = []
    for run in runs:
        with Peak() as peak:
            run()
        peaks.append(f"{peak.bytes / 1e6:.0f}")
    rounds = []
    for number in range(ROUNDS):
        order = (1, 0) if number % 2 else (0, 1)
        taken = {which: seconds(runs[which]) for which in order}  # type: ignore[arg-type]
        rounds.append((taken[0], taken[0] / taken[1]))
    time, ratio = (median(each) for each in zip(*rounds))
    return [f"{time:.2f}", f"{ratio:.2f}", " / ".join(peaks)]


@torch.no_grad()
def main() -> str:
    """Measure every case, and print and return the table."""
    torch.set_num_threads(1)
    rows = []
    for version in ("2.0", "2.3"):
        golden = HERE.parent / "tests" / "golden" / f"config_{version}.json"
        config = json.loads(golden.read_text())["vae"]
        for name, (by, size) in CASES.items():
            for half in HALVES:
                rows.append([f"{half} {version}, {name}", *measure(half, narrowed(config, by), *size)])
                print(rows[-1], flush=True)
    print(table := markdown(["", "seconds", "ours / ltx-core", "peak MB, ours / ltx-core"], rows))
    return table


if __name__ == "__main__":
    main()
