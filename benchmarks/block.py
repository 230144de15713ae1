"""Time and memory of one pass and of a guided step beside others: python -m benchmarks.block

One block of the real width, where weights count, and some of a quarter of it over more tokens. A guided step has four
passes, for which the others are called four times. Memory is in h, the hidden states of the video.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from official import audio_positions, tiny_section, video_positions
from torch import Tensor

from ltx2_core.transformer import UNPERTURBED, Pass, Perturbation, StreamInput

from .contest import COMFY, DIFFUSERS, LTX_CORE, OURS, Case, Run, measure, table
from .peers import Forward, bare, comfy, diffusers, find_comfy, ltx_core, of_comfy, of_diffusers, of_ltx_core
from .weights import State, component

ROUNDS, AUDIO = 5, 16
ANOTHER_RULE = 0.15  # how far others are that round elsewhere, with a given frame, or with an eps of their own

Clip = tuple[int, int, int]  # latent frames, rows and columns


@dataclass(frozen=True)
class Size:
    """A transformer, and what it is shown: ``heads`` of 32 are the real width."""

    heads: int
    layers: int
    dtype: torch.dtype
    clip: Clip
    text: int

    @property
    def tokens(self) -> int:
        """Tokens of the video."""
        return torch.Size(self.clip).numel()

    def __str__(self) -> str:
        width = {32: "real width", 8: "a quarter of the width"}[self.heads]
        return f"{width}, {self.layers} layers, {str(self.dtype)[6:]}, {self.tokens} tokens"

    def section(self, release: str) -> dict[str, Any]:
        """Return the config of the transformer."""
        return tiny_section(
            release, num_layers=self.layers, num_attention_heads=self.heads, audio_num_attention_heads=self.heads,
            attention_head_dim=128, audio_attention_head_dim=64, cross_attention_dim=128 * self.heads,
            audio_cross_attention_dim=64 * self.heads, in_channels=128, out_channels=128, audio_in_channels=128,
            audio_out_channels=128, caption_channels=512,
        )  # fmt: skip


REAL = Size(32, 1, torch.bfloat16, (8, 8, 8), text=256)
LONG, SMALL = (Size(8, 3, dtype, clip, 64) for dtype, clip in (
    (torch.bfloat16, (16, 8, 16)), (torch.float32, (8, 8, 16))
))  # fmt: skip
DEEP = replace(LONG, layers=5, clip=(8, 8, 8))
ONE = (("2.0", REAL), ("2.3", REAL), ("2.0", SMALL), ("2.3", LONG))
FOUR = (("2.0", SMALL), ("2.3", DEEP))


def inputs(section: dict[str, Any], size: Size, image: bool) -> tuple[StreamInput, StreamInput]:
    """Both streams at random; with ``image`` the first frame is given."""
    generator = torch.Generator().manual_seed(0)
    projected = "caption_proj_before_connector" in section
    sigma, timesteps = torch.tensor([0.7]), None
    if image:
        timesteps = sigma.repeat(1, size.tokens)
        timesteps[:, : size.tokens // size.clip[0]] = 0

    def stream(tokens: int, positions: Tensor, context: str, timesteps: Tensor | None) -> StreamInput:
        width = section[context if projected else "caption_channels"]
        draw = [
            torch.randn(1, n, c, generator=generator).to(size.dtype) for n, c in ((tokens, 128), (size.text, width))
        ]
        return StreamInput(draw[0], sigma, positions, draw[1], timesteps)

    return (
        stream(size.tokens, video_positions(*size.clip), "cross_attention_dim", timesteps),
        stream(AUDIO, audio_positions(AUDIO), "audio_cross_attention_dim", None),
    )


def again(forward: Forward, times: int) -> Run:
    """Call ``forward`` so many times, and return the picture's velocity of the first."""

    def run() -> Tensor:
        found = [forward() for _ in range(times)]
        return found[0][0]

    return run


def guided(video: StreamInput, audio: StreamInput, layers: int) -> list[Pass]:
    """The four passes of a step with all guidance; the others ask for them one after the other."""
    others = (replace(each, context=each.context.flip(1)) for each in (video, audio))
    apart = Perturbation(audio_to_video=False, video_to_audio=False)
    perturbed = frozenset({3 * layers // 5})  # as deep as the official block
    skips = UNPERTURBED, Perturbation(video_values_only=perturbed, audio_values_only=perturbed), apart
    return [Pass(video, audio, skips[0]), Pass(*others, skips[0]), *(Pass(video, audio, each) for each in skips[1:])]


def others(
    section: dict[str, Any], state: State, streams: tuple[StreamInput, StreamInput], clip: Clip
) -> dict[str, Forward]:
    """Return one pass of every other implementation that is found."""
    found: dict[str, Forward] = {}
    if find_spec("ltx_core"):
        found[LTX_CORE] = of_ltx_core(ltx_core(section, state), *streams)
    if find_spec("diffusers"):
        found[DIFFUSERS] = of_diffusers(diffusers(section, state), *streams)
    if find_comfy():
        found[COMFY] = of_comfy(comfy(section, state), *streams, clip)
    return found


def case_of(release: str, size: Size, image: bool, passes: int) -> Case:
    """Return one case; the passes of others leave nothing out, which is a little more work than they could have."""
    section = size.section(release)
    ours, state = component("transformer", {"transformer": section}, dtype=size.dtype)
    streams, state = inputs(section, size, image), bare(state)
    contenders: dict[str, Run] = {OURS: lambda: ours.sweep(guided(*streams, size.layers)[:passes])[0][0]}
    contenders |= {name: again(forward, passes) for name, forward in others(section, state, streams, size.clip).items()}
    rounded = image or size.dtype != torch.float32
    return Case(
        f"{release}, {size}, {'first frame given' if image else 'text only'}{', four passes' * (passes > 1)}",
        contenders,
        limit=0.68 if passes > 1 else 1.0 if image else 0.95,
        limits={LTX_CORE: 0.65} if image and passes == 1 else {},
        far={name: ANOTHER_RULE for name in contenders if rounded or name == COMFY},
        unit=(size.tokens * size.heads * 128 * size.dtype.itemsize, "h"),
    )


def cases() -> Iterator[Case]:
    """Yield every case."""
    for release, size in ONE:
        for image in (False, True):
            yield case_of(release, size, image, passes=1)
    for release, size in FOUR:
        yield case_of(release, size, image=False, passes=4)


def main(rounds: int = ROUNDS) -> str:
    """Measure every case, and return the table."""
    torch.set_num_threads(1)
    return table(measure(case, rounds) for case in cases())


if __name__ == "__main__":
    print(main())
