"""Passes that several processes share: what is asked of the transformer, threads in place of processes, and a program.

As a program, started once for each process, it says on the first one how far they are from one process alone: in the
velocities of all versions if there are more than two, and in the latents of the clips that are named, as they are made
and once more in float64.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from agreement import relative_error
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

sys.path.insert(0, str(Path(__file__).parents[1]))

import ltx2_core as ltx2
from ltx2_core import tiny
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.conditioning.conditions import KeepVideo, ReferenceVideo, RetakeRange, VideoSource
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.layers import TextSchedule, Visibility
from ltx2_core.pipeline.engines.processes import Launch, Processes, joining
from ltx2_core.pipeline.sample import SampleInputs, Sampling, sample
from ltx2_core.sampling import Guidance
from ltx2_core.transformer import UNPERTURBED, Nag, Pass, Perturbation, SequenceParallel, StreamInput, Transformer
from ltx2_core.transformer.sequence import Velocities

HEADS = 4
VERSIONS = "2.0", "2.3", "2.5"
SIZES = {
    "num_attention_heads": HEADS, "attention_head_dim": 8, "audio_num_attention_heads": HEADS,
    "audio_attention_head_dim": 4,
}  # fmt: skip
SILENT = Perturbation(audio_to_video=False, video_to_audio=False)
STG = Perturbation(frozenset({1}), frozenset({1}))


def transformer(version: str) -> Transformer:
    with torch.device("meta"):
        network = COMPONENTS["transformer"].make(tiny.config(version, SIZES), {})
    network = network.to_empty(device="cpu").requires_grad_(False)
    draw = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2
        parameter.copy_(torch.randn(parameter.shape, generator=draw) * scale)
    return network


def stream(network: Transformer, name: str, tokens: int, batch: int = 1) -> StreamInput:
    config, axes = getattr(network.config, name), {"video": 3, "audio": 1}[name]
    draw = torch.Generator().manual_seed(tokens)
    rand = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    starts = torch.arange(tokens).float()[:, None] * torch.tensor([0.1, 0.2])
    width = network.config.caption_width or config.context_width
    return StreamInput(
        tokens=rand(batch, tokens, config.channels_in),
        sigma=torch.full((batch,), 0.7),
        positions=starts.expand(batch, axes, tokens, 2).contiguous(),
        context=rand(batch, 6, width),
    )


def questions(network: Transformer) -> Iterator[tuple[str, list[Pass]]]:
    """Steps with everything that a pass may bring."""
    video, audio = stream(network, "video", 11), stream(network, "audio", 5)
    other = [replace(each, context=each.context.flip(1)) for each in (video, audio)]
    yield "four passes", [
        Pass(video, audio, UNPERTURBED), Pass(*other, UNPERTURBED), Pass(video, audio, STG), Pass(video, audio, SILENT),
    ]  # fmt: skip
    levels = torch.tensor([0.0, 0.0, 0.3, *[0.7] * 8])[None]
    yield "a mask", [Pass(replace(video, timesteps=levels), audio, UNPERTURBED)]
    seen = Visibility(torch.tensor([0] * 6 + [1] * 3 + [2] * 2), torch.tensor([1.0] * 6 + [0.4] * 3 + [0.8] * 2), 2)
    yield "references", [Pass(replace(video, visibility=seen), audio, UNPERTURBED)]
    weight = torch.linspace(0, 1, 11)[:, None]
    texts = TextSchedule(torch.cat((weight, 1 - weight), dim=1), (2, 4))
    yield "texts by time", [Pass(replace(video, schedule=texts), audio, UNPERTURBED)]
    nag = Nag(video.context.flip(1), scale=5.0)
    yield "normalised attention guidance", [Pass(replace(video, nag=nag), audio, UNPERTURBED)]
    yield "keyframes", [Pass(replace(video, keyframes=(levels == 0).float()[..., None]), audio, UNPERTURBED)]
    yield "given sound", [Pass(video, replace(audio, updated=False), UNPERTURBED)]
    yield "given picture", [Pass(replace(video, updated=False), audio, UNPERTURBED)]
    yield "no sound", [Pass(video, None, UNPERTURBED)]
    yield "no picture", [Pass(None, audio, UNPERTURBED)]
    yield "two clips", [Pass(stream(network, "video", 8, 2), stream(network, "audio", 3, 2), UNPERTURBED)]
    yield "fewer tokens than processes", [Pass(stream(network, "video", 1), audio, UNPERTURBED)]


def differences(network: Transformer, shared: SequenceParallel) -> dict[str, float]:
    """How far ``shared`` is from ``network`` at most, for each of the questions."""
    return {name: farthest(network.sweep(passes), shared.sweep(passes)) for name, passes in questions(network)}


def farthest(alone: Sequence[Velocities], together: Sequence[Velocities]) -> float:
    pairs = [pair for one, other in zip(alone, together, strict=True) for pair in zip(one, other)]
    return max(relative_error(together, alone) for alone, together in pairs if alone is not None)


class InDouble(TorchFunctionMode):
    """Computes everything in float64, also what is said to be float32."""

    def __enter__(self):
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error):
        torch.set_default_dtype(torch.float32)
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        func = torch.Tensor.double if func is torch.Tensor.float else func
        args, kwargs = tree_map(lambda each: torch.float64 if each is torch.float32 else each, (args, kwargs or {}))
        return func(*args, **kwargs)


class Threads:
    """Peers that are threads of this process."""

    def __init__(self, size: int):
        self.size, self._barrier, self._slots = size, threading.Barrier(size), [None] * size

    def run(self, work: Callable[["Thread"], object]) -> list:
        """What ``work`` returns in each thread."""
        results, errors = [None] * self.size, []

        def run(rank: int) -> None:
            try:
                with torch.inference_mode():
                    results[rank] = work(Thread(self, rank))
            except BaseException as error:
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(self.size)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        for error in errors:
            raise error
        return results

    def put(self, rank: int, x: Tensor) -> list[Tensor]:
        self._slots[rank] = x
        self._barrier.wait()
        everything = list(self._slots)
        self._barrier.wait()
        return everything


class Thread:
    """One of them."""

    def __init__(self, threads: Threads, rank: int):
        self.threads, self.rank, self.size = threads, rank, threads.size

    def exchange(self, x: Tensor) -> Tensor:
        assert len(x) == self.size and x.is_contiguous()
        return torch.stack([each[self.rank] for each in self.threads.put(self.rank, x)])

    def gather(self, x: Tensor) -> Tensor:
        return torch.stack(self.threads.put(self.rank, x))


PLAIN = {"seed": 3, "steps": 2, "width": 96, "height": 64, "frames": 17, "cache": False}
STRONG = Guidance(text_scale=3.0, stg_scale=1.0, stg_blocks=(1,), cross_modal_scale=2.0)
FRAMES = torch.linspace(0, 1, 17 * 64 * 96 * 3).reshape(17, 64, 96, 3)


CLIPS = {
    "reference": {
        "video": STRONG, "audio": STRONG,
        "conditions": [Picture(FRAMES[:1]), ReferenceVideo(VideoSource(FRAMES), attention=0.5)],
    },
    "retake": {"conditions": [KeepVideo(VideoSource(FRAMES)), RetakeRange(0, 0.4)]},
}  # fmt: skip


Asked = tuple[str, SampleInputs, Sampling]


def clips(folder: Path, names: Sequence[str]) -> tuple[dict[str, Tensor], list[Asked]]:
    """Latents of whole clips, such as "2.3 retake", and what was sampled for them."""
    found, asked = {}, []
    for name in names:
        version, kind = name.split()
        models = ltx2.open_models(folder / f"ltx-{version}-tiny.safetensors", folder / "gemma-tiny")

        def recorded(network, inputs, sampling, *rest, name=name):
            asked.append((name, inputs, sampling))
            return sample(network, inputs, sampling, *rest)

        with mock.patch("ltx2_core.pipeline.sample.sample", recorded):
            latent = ltx2.generate(models, "a ball", "a cube", **PLAIN | CLIPS[kind]).latent
        found |= {f"{name} {stream}": x for stream, x in latent.streams().items()}
    return found, asked


def doubles(asked: Sequence[Asked], processes: Processes, leads: bool) -> dict[str, float]:
    """How far the same latents are apart in float64, of random weights, on the first process."""
    found = {}
    for name, inputs, sampling in asked:
        network = transformer(name.split()[0]).double()
        with InDouble():
            shared = SequenceParallel(network, network.config, processes)
            together = sample(shared, inputs, sampling, torch.float64).streams()
            alone = sample(network, inputs, sampling, torch.float64).streams() if leads else {}
        assert {x.dtype for x in together.values()} == {torch.float64}
        found |= {f"{name} {stream}": relative_error(together[stream], x) for stream, x in alone.items()}
    return found


def main(folder: Path, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    launch, velocities = Launch.of_environment(), {}
    alone = clips(folder, names)[0] if launch.leads else {}
    with joining(launch) as processes, torch.inference_mode():
        for version in VERSIONS if launch.size > 2 else VERSIONS[:1]:
            network = transformer(version)
            shared = SequenceParallel(network, network.config, processes)
            velocities |= {f"{version} {name}": far for name, far in differences(network, shared).items()}
        together, asked = clips(folder, names)
        in_double = doubles(asked, processes, launch.leads)
    if launch.leads:
        latents = {name: relative_error(together[name], x) for name, x in alone.items()}
        print(json.dumps({"velocities": velocities, "latents": latents, "doubles": in_double}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
