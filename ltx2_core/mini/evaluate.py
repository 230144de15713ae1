"""How good is the miniature? python -m ltx2_core.mini.evaluate

Makes clips of captions that no training saw, at several settings, and looks at them and listens to them
(``measure.py``); prints a table, and writes it into --output together with the figures (JSON) and a plot of what
guidance does to the time between an impact and its sound. Needs scipy, and matplotlib for the plot.
"""

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from ..audio_vae import AudioVAEConfig, log_mel
from ..checkpoint import build, open_models
from ..checkpoint.models import BUILT_IN
from ..checkpoint.models import BUILT_IN_GEMMA as GEMMA
from ..checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ..geometry import ClipShape
from ..latents import AVLatent, empty
from ..pipeline.decode_audio import decode_audio, vocode
from ..pipeline.decode_video import decode_video
from ..pipeline.sample import SampleInputs, Sampling, sample
from ..sampling import Guidance, StreamGuidance, ltx2
from ..settings import SamplingSettings
from ..text import Contexts, connect, encode_prompts
from ..transformer import Network, Pass, Perturbation, Velocities
from ..video_vae import DecoderInput
from . import measure, world

SHAPE = ClipShape(world.SIZE, world.SIZE, world.FRAMES, Fraction(world.FPS))
HELD_OUT = 10**6  # seed of the captions; training counts its seeds from 0
BATCH = 20

Clip = tuple[np.ndarray, np.ndarray]  # pictures (F, H, W, 3) in 0..1, sound (2, N)
Wanted = tuple[str, str, int]  # colour, place, count


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    text: float = 1.0
    cross_modal: float = 1.0
    connected: bool = True  # whether picture and sound attend to each other at all
    steps: int = 30

    def __str__(self) -> str:
        cut = "" if self.connected else ", cross-attention cut"
        return f"text {self.text:g}, cross-modal {self.cross_modal:g}, {self.steps} steps{cut}"


OFFICIAL = Setting(3.0, 3.0)
SETTINGS = [
    OFFICIAL,
    replace(OFFICIAL, steps=8),
    Setting(),
    Setting(3.0),
    *(Setting(3.0, cross_modal=scale) for scale in (2.0, 5.0)),
    Setting(connected=False),
    Setting(3.0, connected=False),
]


class WithoutCross:
    """A transformer without attention between the streams."""

    def __init__(self, network: Network):
        self.network = network

    def sweep(self, passes: Sequence[Pass], between_blocks: Callable[[], None] | None = None) -> Sequence[Velocities]:
        """Ask the network with every pass cut between the streams."""
        apart = Perturbation(audio_to_video=False, video_to_audio=False)
        return self.network.sweep([replace(each, perturbation=apart) for each in passes], between_blocks)


class Miniature:
    """All networks of a checkpoint in float32."""

    def __init__(self, checkpoint: str | Path = BUILT_IN, text_encoder: Path = GEMMA):
        self.models, self.text_encoder = open_models(checkpoint, text_encoder), text_encoder
        self.networks = {name: build(self.models, name, torch.float32) for name in self.models.sources}
        self.audio = AudioVAEConfig.from_json(self.models.config["audio_vae"])

    def contexts(self, prompts: Sequence[str]) -> list[Contexts]:
        """Return what the transformer reads of each prompt."""
        files = open_text_encoder(self.text_encoder)
        encoder = build_text_encoder(files, torch.float32)
        connectors = self.networks["video_connector"], self.networks["audio_connector"]
        found: list[Contexts] = []
        for start in range(0, len(prompts), BATCH):
            some = prompts[start : start + BATCH]
            features = encode_prompts(encoder, files.tokenizer(), self.networks["text_features"], some)
            found += [connect(each, *connectors) for each in features]
        return found

    def clips(self, contexts: Sequence[Contexts], negative: Contexts, setting: Setting, seed: int) -> Iterator[Clip]:
        """Pictures and sound of every prompt, some at a time."""
        guidance, transformer = Guidance(setting.text, setting.cross_modal), self.networks["transformer"]
        for start in range(0, len(contexts), BATCH):
            some = contexts[start : start + BATCH]
            batch = replace(some[0], video=torch.cat([c.video for c in some]), audio=torch.cat([c.audio for c in some]))
            inputs = SampleInputs(empty(SHAPE, len(some)), SHAPE.fps, batch, negative)
            settings = SamplingSettings(seed=seed + start)
            sampling = Sampling(tuple(ltx2(setting.steps)), StreamGuidance(guidance, guidance), settings)
            latent = sample(transformer if setting.connected else WithoutCross(transformer), inputs, sampling)
            yield from self.decoded(latent)

    def decoded(self, latent: AVLatent) -> Iterator[Clip]:
        """Yield one clip of a batch after the other."""
        assert latent.video is not None and latent.audio is not None
        video, audio, vocoder = (self.networks[n] for n in ("video_decoder", "audio_decoder", "vocoder"))
        for picture, sound in zip(latent.video.split(1), latent.audio.split(1)):
            frames = torch.cat(list(decode_video(video, DecoderInput(picture))), dim=1)[0]
            yield frames.numpy(), vocode(vocoder, decode_audio(audio, sound))[0].numpy()

    def coded(self, scene: world.Scene) -> Clip:
        """Return a true clip after both autoencoders and the vocoder."""
        video = torch.from_numpy(world.render_video(scene)) * 2 - 1
        sound = torch.from_numpy(world.render_audio(scene, self.audio.sample_rate))
        mel = log_mel(sound[None], self.audio.sample_rate, self.audio)
        latent = AVLatent(
            self.networks["video_encoder"](rearrange(video, "f h w c -> 1 c f h w")),
            self.networks["audio_encoder"](mel)[:, :, : SHAPE.audio_latents],
        )
        return next(self.decoded(latent))


def reconstruction(miniature: Miniature, scenes: Sequence[world.Scene]) -> dict[str, float]:
    """Return what is left of true clips after the autoencoders, and the peak signal-to-noise ratio of the pictures."""
    coded = [miniature.coded(scene) for scene in scenes]
    errors = [np.square(made - world.render_video(scene)).mean() for (made, _), scene in zip(coded, scenes)]
    found = measure.describe(coded, [(scene.colour, scene.place, scene.count) for scene in scenes])
    return found | {"video_psnr_db": round(float(np.mean(-10 * np.log10(errors))), 2)}


def asked(count: int, seed: int = HELD_OUT) -> tuple[list[Wanted], list[str]]:
    """Return what ``count`` captions ask for, every colour, place and number equally often, and the captions."""
    rng = np.random.default_rng(seed)
    every = [(c, p, n) for c in world.COLOURS for p in world.PLACES for n in (1, 2, 3)]
    wanted = [every[i % len(every)] for i in rng.permutation(count)]
    return wanted, [world.caption(world.sample_scene(rng, *each), rng) for each in wanted]


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [["", *(name.replace("_", " ") for name in columns)], ["---"] * (len(columns) + 1)]
    lines += [[title, *(f"{row[name]:g}" if name in row else "" for name in columns)] for title, row in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Plot what each setting does to the agreement of impacts and tones, and to the time between them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 0.4 * len(rows) + 1), sharey=True)
    for axis, name, label in (
        (axes[0], "sync_within_2_frames", "share of impacts and tones that agree within 2 frames"),
        (axes[1], "sync_error_ms_median", "median of tone to impact, milliseconds"),
    ):
        bars = axis.barh([*rows], [row[name] for row in rows.values()], color="#e0604c")
        axis.bar_label(bars, fmt="%g", padding=3)
        axis.margins(x=0.2)
        axis.set_xlabel(label)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def figures_of(
    miniature: Miniature, settings: Iterable[Setting], prompts: int, clips: int
) -> tuple[dict[str, float], dict[Setting, dict[str, float]]]:
    """Measure true clips after the autoencoders, and clips made at each setting."""
    wanted, captions = asked(prompts)
    rng = np.random.default_rng(HELD_OUT + 1)
    coded = reconstruction(miniature, [world.sample_scene(rng) for _ in range(clips)])
    print("after the autoencoders", coded, flush=True)
    *contexts, negative = miniature.contexts([*captions, ""])
    figures = {}
    for setting in settings:
        begun = time.monotonic()
        figures[setting] = measure.describe(miniature.clips(contexts, negative, setting, HELD_OUT), wanted)
        print(f"{setting} ({time.monotonic() - begun:.0f} s)", figures[setting], flush=True)
    return coded, figures


@torch.inference_mode()
def main() -> None:
    """Make the clips, and print or write how good they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=BUILT_IN, help="default: the built-in one")
    parser.add_argument("--text-encoder", type=Path, default=GEMMA, help="a Gemma folder; default: the built-in one")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--clips", type=int, default=50, help="true clips that go through the autoencoders")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="how many of the settings, from the first")
    parser.add_argument("--output", type=Path, help="folder for evaluation.md, .json and .png")
    options = parser.parse_args()
    miniature = Miniature(options.checkpoint, options.text_encoder)
    coded, figures = figures_of(miniature, SETTINGS[: options.settings], options.prompts, options.clips)
    rows = {"true clips after the autoencoders": coded} | {str(setting): row for setting, row in figures.items()}
    print(table(rows))
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        about = {
            "checkpoint": hashlib.sha256(options.checkpoint.read_bytes()).hexdigest(),
            "date": str(date.today()),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "prompts": options.prompts,
            "clips": options.clips,
        }
        content = {"about": about, "figures": rows}
        (options.output / "evaluation.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (options.output / "evaluation.md").write_text(table(rows), encoding="utf-8")
        plot(rows, options.output / "evaluation.png")


if __name__ == "__main__":
    main()
