"""What the two guidance scales do, measured on the miniature: python benchmarks/guidance.py

Makes the 45 clips of the one-ball world at each setting, looks and listens, and writes a table (Markdown), a plot and
the figures (JSON) into benchmarks/results. Needs scipy and matplotlib.
"""

import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from ltx2_core import build, open_models  # noqa: E402
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder  # noqa: E402
from ltx2_core.generate import decode_audio, decode_video, sample, vocode  # noqa: E402
from ltx2_core.geometry import ClipShape  # noqa: E402
from ltx2_core.latents import empty  # noqa: E402
from ltx2_core.mini import measure, world  # noqa: E402
from ltx2_core.sampling import Guidance, ltx2  # noqa: E402
from ltx2_core.text import Contexts, connect, encode_prompts  # noqa: E402
from ltx2_core.transformer import Perturbation  # noqa: E402

SHAPE = ClipShape(world.SIZE, world.SIZE, world.FRAMES, Fraction(24))
SCALES = (1.0, 2.0, 3.0, 5.0, 8.0)
STEPS, SEED, BATCH = 20, 1, 15


@dataclass(frozen=True)
class Setting:
    """One column of the table."""

    text: float = 1.0
    cross_modal: float = 1.0
    connected: bool = True  # whether picture and sound attend to each other at all

    def __str__(self) -> str:
        return f"text {self.text:g}, cross-modal {self.cross_modal:g}" + ("" if self.connected else ", cut")


SETTINGS = [
    *(Setting(text=scale) for scale in SCALES),
    *(Setting(text=3.0, cross_modal=scale) for scale in SCALES[1:]),
    Setting(connected=False),
    Setting(text=3.0, connected=False),
]


class Cut:
    """The transformer without attention between the streams."""

    def __init__(self, network):
        self.network = network

    def sweep(self, passes, between_blocks=None):
        apart = Perturbation(audio_to_video=False, video_to_audio=False)
        return self.network.sweep([replace(each, perturbation=apart) for each in passes], between_blocks)


class Miniature:
    """The networks of the miniature, and the contexts of the prompts that are asked for."""

    def __init__(self, prompts: list[str]):
        models = open_models("miniature")
        self.transformer = build(models, "transformer", torch.float32)
        self.decoders = [build(models, n, torch.float32) for n in ("video_decoder", "audio_decoder", "vocoder")]
        files = open_text_encoder(models.text_encoder)
        features = build(models, "text_features", torch.float32)
        connectors = [build(models, f"{stream}_connector", torch.float32) for stream in ("video", "audio")]
        encoder = build_text_encoder(files, torch.float32)
        texts = encode_prompts(encoder, files.tokenizer(), features, [*prompts, ""])
        *self.contexts, self.negative = [connect(text, *connectors) for text in texts]

    def clips(self, setting: Setting) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pictures and sound of every prompt."""
        guidance = Guidance(setting.text, setting.cross_modal)
        network = self.transformer if setting.connected else Cut(self.transformer)
        for start in range(0, len(self.contexts), BATCH):
            chosen = self.contexts[start : start + BATCH]
            contexts = Contexts(torch.cat([c.video for c in chosen]), torch.cat([c.audio for c in chosen]))
            latent = sample(
                network, empty(SHAPE, len(chosen)), fps=SHAPE.fps, sigmas=ltx2(STEPS), contexts=contexts,
                negative=self.negative, video=guidance, audio=guidance, seed=SEED + start,
            )  # fmt: skip
            video, audio, vocoder = self.decoders
            for picture, sound in zip(latent.video.split(1), latent.audio.split(1)):
                frames = torch.cat(list(decode_video(video, picture)), dim=1)[0]
                yield frames.numpy(), vocode(vocoder, decode_audio(audio, sound))[0].numpy()


def main() -> None:
    rng = np.random.default_rng(SEED)
    wanted = [(c, p, n) for c in world.COLOURS for p in world.PLACES for n in (1, 2, 3)]
    prompts = [world.caption(world.sample_scene(rng, *each), rng) for each in wanted]
    miniature = Miniature(prompts)
    figures = {}
    for setting in SETTINGS:
        with torch.inference_mode():
            figures[setting] = measure.describe(miniature.clips(setting), wanted)
        print(setting, figures[setting], flush=True)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    about = {"date": str(date.today()), "torch": torch.__version__, "machine": platform.machine(), "steps": STEPS}
    content = {"about": about | {"prompts": len(prompts)}, "figures": {str(s): f for s, f in figures.items()}}
    (results / "guidance.json").write_text(json.dumps(content, indent=1) + "\n")
    (results / "guidance.md").write_text(table(figures))
    plot(figures, results / "guidance.png")


def table(figures: dict[Setting, dict[str, float]]) -> str:
    """One row per setting."""
    columns = list(next(iter(figures.values())))
    lines = [["", *(name.replace("_", " ") for name in columns)], ["---"] * (len(columns) + 1)]
    lines += [[str(setting), *(f"{row[name]:g}" for name in columns)] for setting, row in figures.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(figures: dict[Setting, dict[str, float]], path: Path) -> None:
    """Each scale against what it should change, and against what it should leave alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {
        "ball_visible": "ball visible", "ball_colour": "ball has the colour", "bounce_count": "bounces as asked",
        "sound_count": "sounds as asked", "sync_within_2_frames": "sound within 2 frames of its impact",
    }  # fmt: skip
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True)
    for axis, title, settings, value in (
        (axes[0], "text scale (cross-modal 1)", [Setting(text=s) for s in SCALES], "text"),
        (axes[1], "cross-modal scale (text 3)", [Setting(3.0, s) for s in SCALES], "cross_modal"),
    ):
        for name, label in shown.items():
            axis.plot([getattr(s, value) for s in settings], [figures[s][name] for s in settings], "o-", label=label)
        cut = figures[Setting(3.0 if value == "cross_modal" else 1.0, connected=False)]["sync_within_2_frames"]
        axis.axhline(cut, ls=":", color="tab:purple", label="the same with the cross-attention cut")
        axis.set(xlabel=title, ylim=(0, 1.05))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of clips, or of impacts")
    axes[1].legend(loc="lower right", bbox_to_anchor=(1, 0.1), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
