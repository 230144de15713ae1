"""Whole clips on this machine, each stage beside its plan: python -m benchmarks.clips --vram 12

Weights are zeros in files of full size that take no room on disk, so that everything is loaded, placed, streamed and
computed as with the real ones: Gemma, connectors, conditions, sampling, upscaling, refining, frames and sound.

text       a clip from a prompt
image      the same from a picture, at both ends
reference  the same with a reference video that is seen in part, whose attention is weighted
lora       the same with a LoRA of rank 384 on all matrices of the blocks
stages     small first, then upscaled and refined

Every stage is a row, printed as it ends and kept in results/clips_<card>_<date>.json; --table FILE prints such files as
a table of a page. With --tiny the built-in miniature.
"""

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ltx2_core as ltx2
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.keys.transformer import TRANSFORMER
from ltx2_core.checkpoint.versions import VERSIONS
from ltx2_core.cli.arguments import request_of
from ltx2_core.cli.parser import parse
from ltx2_core.pipeline.engines.hardware import best_device
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.stage import Networks, Stage

from .cuda import machine_and_versions, results_file
from .markdown import markdown
from .no_card import write_model, write_zeros

HERE = Path(__file__).parent
PROMPT = "a red ball bounces twice on the left"
RANK = 384
EXAMPLES = HERE.parent / "workflows" / "examples"
UPSCALER = HERE.parent / "tests" / "golden" / "upscaler_spatial_x2_default.tsv.gz"
COLUMNS = ("clip", "stage", "seconds", "planned seconds", "GB", "planned GB", "streamed")


class TimedEngine(LocalEngine):
    """Notes how long each stage takes, loading included, and what it takes on the card."""

    clip = ""

    def __init__(self, *given: Any, rows: list[dict[str, Any]], **more: Any):
        super().__init__(*given, **more)
        self.rows = rows

    @contextmanager
    def use(self, stage: Stage, *given: object, **more: object) -> Iterator[Networks]:
        """Time what happens within."""
        placement, card = self.placement(stage), self._device.type == "cuda"
        if card:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        with super().use(stage, *given, **more) as networks:  # type: ignore[arg-type]
            yield networks
        if card:
            torch.cuda.synchronize()
        row: dict[str, Any] = {"clip": self.clip, "stage": stage.name, "seconds": time.perf_counter() - start}
        if placement is not None:
            row |= {"planned seconds": placement.seconds, "planned GB": placement.device_bytes / 1e9}
            row["streamed"] = sum(tier != "device" for tier in placement.tiers) / max(1, len(placement.tiers))
        if card:
            row["GB"] = torch.cuda.max_memory_allocated() / 1e9
        self.rows.append({key: float(f"{each:.3g}") if isinstance(each, float) else each for key, each in row.items()})
        print(", ".join(f"{key} {value}" for key, value in self.rows[-1].items()), flush=True)


def main(arguments: list[str] | None = None) -> Path:
    """Make the clips, or the table of files that are given; return the file with the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(CLIPS), help=f"of {','.join(CLIPS)}")
    parser.add_argument("--version", choices=[*VERSIONS], default="2.3")
    parser.add_argument("--format", help="to which the transformer is cast, such as fp8")
    parser.add_argument("--vram", type=float, metavar="GB", help="of a smaller card")
    parser.add_argument("--size", type=lambda text: [*map(int, text.split("x"))], default=[1280, 704, 121])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--tiny", action="store_true", help="the built-in miniature, to try this script")
    parser.add_argument("--table", type=Path, help="print this file as a table instead")
    options = parser.parse_args(arguments)
    if options.table:
        print(table_of(json.loads(options.table.read_text())["rows"]))
        return options.table
    about = machine_and_versions(best_device()) | {"options": {k: str(v) for k, v in vars(options).items()}}
    options.output.mkdir(parents=True, exist_ok=True)
    path, rows = results_file(options.output, "clips", about), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        files = ["miniature"] if options.tiny else write_model(Path(folder), options.version)
        models = ltx2.open_models(*files, distilled=True)
        for name in options.only:
            try:
                make(name, models, options, rows, Path(folder))
            except Exception as error:
                rows.append({"clip": name, "failed": f"{type(error).__name__}: {error}"[:600]})
                print(rows[-1], flush=True)
            path.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    return path


def make(name: str, models: ltx2.Models, options: argparse.Namespace, rows: list[dict[str, Any]], folder: Path) -> None:
    """Make one clip, with the flags of ``generate`` that its name stands for."""
    width, height, frames = options.size
    words = ["--prompt", PROMPT, "--no-cache", "--width", width, "--height", height, "--frames", frames]
    words += ["--steps", options.steps, "--output", folder / "clip.mp4", *CLIPS[name](models, folder)]
    words += ["--vram", options.vram] if options.vram else []
    words += ["--format", options.format] if options.format else []
    request = request_of(parse(["generate", *map(str, words)]), models)
    engine = TimedEngine(models, request.resources, loras=request.loras, rows=rows)
    engine.clip = name
    clip = ltx2.run(models, request, engine)
    count = sum(len(chunk) for chunk in clip.chunks)
    assert count == frames, f"{count} frames"


def text(models: ltx2.Models, folder: Path) -> list[str]:
    """Return no more flags."""
    return []


def image(models: ltx2.Models, folder: Path) -> list[str]:
    """Return a picture for both ends."""
    return [
        "--image",
        f"0:{EXAMPLES / 'ltx2_example_first.png'}",
        "--image",
        f"-1:{EXAMPLES / 'ltx2_example_last.png'}",
    ]


def reference(models: ltx2.Models, folder: Path) -> list[str]:
    """Return a video that is seen in part."""
    return ["--reference-video", f"{EXAMPLES / 'ltx2_example_motion.mp4'}:attention=0.5"]


def lora(models: ltx2.Models, folder: Path) -> list[str]:
    """Return a LoRA on all matrices of the blocks but gates."""
    with torch.device("meta"):
        network = COMPONENTS["transformer"].make(models.config, {})
    return ["--lora", str(write_zeros(folder / "lora.safetensors", shapes_of_lora(network, RANK)))]


def stages(models: ltx2.Models, folder: Path) -> list[str]:
    """Return a second stage, with an upscaler of full size."""
    rows = [line.split("\t") for line in gzip.decompress(UPSCALER.read_bytes()).decode().splitlines()[1:]]
    shapes = {key: tuple(map(int, shape.split("x"))) for key, shape in rows}
    return ["--upscaler", str(write_zeros(folder / "upscaler.safetensors", shapes)), "--upscale", "2", "--refine"]


CLIPS = {each.__name__: each for each in (text, image, reference, lora, stages)}


def shapes_of_lora(network: nn.Module, rank: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a LoRA that changes every matrix of every block but the gates, by their official names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in network.named_parameters():
        if name.startswith("blocks.") and name.endswith(".weight") and parameter.ndim == 2 and "gate" not in name:
            layer = "diffusion_model." + TRANSFORMER.official(name).removesuffix(".weight")
            shapes[f"{layer}.lora_A.weight"] = (rank, parameter.shape[1])
            shapes[f"{layer}.lora_B.weight"] = (parameter.shape[0], rank)
    return shapes


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return rows as a table of a page."""
    return markdown(COLUMNS, ([str(row.get(each, "")) for each in COLUMNS] for row in rows))


if __name__ == "__main__":
    main()
