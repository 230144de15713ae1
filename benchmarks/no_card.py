"""How much memory a clip of a full-size model takes on a computer without a card.

python -m benchmarks.no_card --ram 5
python -m benchmarks.no_card --ram 5 --no-prompt

The files are made here: they have the size of the real ones, 46 and 24 GB, but hold zeros that take no room on disk.
Anonymous memory is what a program has for itself; pages of mapped files, which the system takes back at will, are not
in it. Linux only.
"""

import argparse
import json
import struct
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from shutil import copy
from types import TracebackType

import torch

import ltx2_core as ltx2
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.keys.gemma import GEMMA
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.versions import VERSIONS
from ltx2_core.memory import Placement
from ltx2_core.pipeline.encode_text import ConnectorConfig, contexts_cache
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.pipeline.plan import Plan
from ltx2_core.pipeline.stage import Stage

PROMPT = "a red ball"
LENGTH = 1024  # tokens, to which every prompt is filled up

_EVERY = 0.05  # seconds between two looks
_GEMMA_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")

Shapes = Mapping[str, tuple[int, ...]]


def write_zeros(path: Path, shapes: Shapes, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a safetensors file of bfloat16 zeros, but for the last number, of which the disk keeps little more than the
    header; one that ends in zeros is taken for a download."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        start, nbytes = end, 2
        for side in shape:
            nbytes *= side
        end = start + nbytes
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.seek(8 + len(text) + end - 2)
        file.write(b"\x80\x3f")
    return path


def write_model(folder: Path, version: str) -> tuple[Path, Path]:
    """Write the checkpoint of a release and Gemma 3 12B at full size, of zeros; return both paths."""
    blueprint, config = Blueprint.of_version(version), VERSIONS[version].config
    shapes: dict[str, tuple[int, ...]] = {}
    for name, component in COMPONENTS.items():
        official = component.variant_for(config).keys.official
        shapes |= {official(ours): tuple(tensor.shape) for ours, tensor in blueprint.tensors[name].items()}
    about = {"config": json.dumps(config), "model_version": f"{version}.0"}
    checkpoint = write_zeros(folder / f"ltx-{version}-distilled-zeros.safetensors", shapes, about)
    gemma = folder / "gemma-zeros"
    gemma.mkdir(exist_ok=True)
    parts = blueprint.tensors["text_encoder"].items()
    write_zeros(gemma / "model.safetensors", {GEMMA.official(ours): tuple(each.shape) for ours, each in parts})
    assert blueprint.gemma is not None
    text_config = blueprint.gemma.to_json() | {"model_type": "gemma3_text"}
    (gemma / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text_config}))
    for name in _GEMMA_FILES:
        copy(MINIATURE / "gemma-mini" / name, gemma / name)
    return checkpoint, gemma


class AnonymousMemory:
    """Looks all the time how much anonymous memory this process has, and keeps the most of each stage, in bytes."""

    def __init__(self) -> None:
        self.most: dict[str, int] = {}
        self.stage = "open"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._began = time.perf_counter()

    @staticmethod
    def now() -> int:
        """Return the bytes at this moment."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    def enter(self, stage: str) -> None:
        """Count for ``stage`` from now on, and print what the one before took."""
        if stage != self.stage:
            seconds, self._began = time.perf_counter() - self._began, time.perf_counter()
            print(f"{self.stage}: {self.most.get(self.stage, 0) / 1e9:.2f} GB, {seconds:.0f} s", flush=True)
            self.stage = stage

    def __enter__(self) -> "AnonymousMemory":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._over.set()
        self._thread.join()
        self.enter("end")

    def _watch(self) -> None:
        while not self._over.wait(_EVERY):
            self.most[self.stage] = max(self.most.get(self.stage, 0), self.now())


class WatchedEngine(LocalEngine):
    """Tells ``memory`` of each stage, and prints the plan."""

    def __init__(self, models: ltx2.Models, request: ltx2.Request, memory: AnonymousMemory):
        super().__init__(models, request.resources)
        self._memory = memory

    def follow(self, plan: Plan) -> None:
        """Print the plan before it is followed."""
        print(plan.explain(), flush=True)
        super().follow(plan)

    def placement(self, stage: Stage) -> Placement | None:
        """Count for this stage from now on, since this is asked for before its networks are built."""
        self._memory.enter(stage.name)
        return super().placement(stage)


def keep_contexts(engine: LocalEngine, folder: Path) -> None:
    """Keep contexts of zeros for PROMPT as if it had been read before."""
    section = engine.models.config["transformer"]
    video, audio = (ConnectorConfig.from_json(section, stream).width for stream in ("video", "audio"))
    contexts_cache(engine, folder).keep(
        PROMPT, video=torch.zeros(1, LENGTH, video), audio=torch.zeros(1, LENGTH, audio)
    )


def main(arguments: list[str] | None = None) -> int:
    """Make the clip, print the most anonymous memory of each stage, and return the most of all, in bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", default="2.3", choices=VERSIONS)
    parser.add_argument("--ram", type=float, default=5, metavar="GB", help="that the clip may take (default 5)")
    parser.add_argument("--no-prompt", action="store_true", help="skip Gemma and its projection, most of the time")
    parser.add_argument("--files", nargs=2, type=Path, metavar=("MODEL", "GEMMA"), help="instead of those made here")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "bf16", "fp32"), help="what networks compute in"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, AnonymousMemory() as memory:
        checkpoint, gemma = options.files or write_model(Path(name), options.version)
        models = ltx2.open_models(checkpoint, gemma, distilled=True)
        size = {"width": 64, "height": 64, "frames": 9}
        limits = {"device": "cpu", "max_ram": options.ram, "precision": options.precision}
        kept = Path(name) / "kept" if options.no_prompt else None
        request = ltx2.Request.of(PROMPT, sigmas=[1.0, 0.0], cache=kept, **size, **limits)
        engine = WatchedEngine(models, request, memory)
        if kept is not None:
            keep_contexts(engine, kept)
        clip = ltx2.run(models, request, engine)
        print(f"{sum(len(chunk) for chunk in clip.chunks)} frames")
    print(f"at most {max(memory.most.values()) / 1e9:.2f} GB of anonymous memory")
    return max(memory.most.values())


if __name__ == "__main__":
    main()
