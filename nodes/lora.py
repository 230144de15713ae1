"""Which LoRAs, and how strongly?"""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..ltx2_core.checkpoint.belonging import check_own_part
from ..ltx2_core.checkpoint.listed import paths_found
from ..ltx2_core.checkpoint.models import MINIATURE, Models
from ..ltx2_core.disk_cache import Stamp, stamps
from ..ltx2_core.fields import settings_from
from ..ltx2_core.lora import Lora, Shrink, Strengths, compare, files_of_lora, open_shrunk
from ..ltx2_core.lora.stack import find_distilled_lora
from ..ltx2_core.lora.strengths import parse_blocks, parse_schedule
from ..ltx2_core.pipeline.generate import recipe_of
from . import host
from .engine import LoadedModel
from .inputs import choice, sockets, widgets
from .node import Node
from .values import ModelType

BUILT_IN, NONE, DISTILLED = "built-in: ", "none", "distilled LoRA of the model"
ROWS = 10  # of the stack; js/stack.js shows as many as are used, and one more


def _loras(*folders: str) -> list[str]:
    """Return the names of LoRAs; those of the miniature come last."""
    return [*host.model_files(*folders), *_built_in()]


def _row_inputs() -> list[io.Input]:
    """Return the inputs of the rows of the stack, of which only the first one is always there."""
    rows: list[io.Input] = []
    for row in range(1, ROWS + 1):
        (strength,) = widgets(Strengths, "strength", optional=row > 1)()
        strength.id = f"strength_{row}"
        lora = choice(f"lora_{row}", lambda *of: [NONE, *_loras(*of), DISTILLED], "loras", optional=row > 1)()
        rows += [*lora, strength]
    return rows


LORA = choice("lora", lambda *of: [*_loras(*of), DISTILLED], "loras")
ENERGY = widgets(Shrink, "energy", optional=True)


class _LoraNode(Node):
    """A node that adds LoRAs to a model; they are read again when their files have changed."""

    outputs = {"model": ModelType}
    shows = True

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> list[Stamp]:
        names = [values["lora"]] if "lora" in values else [name for name, _ in _rows(values)]
        return stamps([file for name in names for path in _paths(name) for file in files_of_lora(path)])


class LoadLora(_LoraNode):
    """One LoRA with one strength."""

    id = "LTX2AVLoadLora"
    title = "loaders/Load LoRA"
    inputs = [sockets("model"), LORA, widgets(Strengths, "strength"), ENERGY]

    @classmethod
    def execute(cls, model: LoadedModel, lora: str, strength: float, energy: float = 1.0) -> io.NodeOutput:
        return io.NodeOutput(_added(model, energy, (lora, Strengths(strength))))


class LoadLoraAdvanced(_LoraNode):
    """One LoRA with a strength for each stream, for some blocks, and over the run."""

    id = "LTX2AVLoadLoraAdvanced"
    title = "loaders/Load LoRA (advanced)"
    inputs = [
        sockets("model"),
        LORA,
        widgets(Strengths, "strength", "video", "audio", "audio_to_video", "video_to_audio"),
        widgets(Strengths, "text", "blocks", "schedule", "schedule_over", optional=True),
        ENERGY,
    ]

    @classmethod
    def execute(cls, model: LoadedModel, lora: str, energy: float = 1.0, **strengths: Any) -> io.NodeOutput:
        strengths["blocks"] = parse_blocks(strengths.get("blocks", "all"), model.models.layers)
        strengths["schedule"] = parse_schedule(strengths.get("schedule", "constant"))
        return io.NodeOutput(_added(model, energy, (lora, settings_from(Strengths, strengths))))


class LoraStack(_LoraNode):
    """Several LoRAs in one node."""

    id = "LTX2AVLoraStack"
    title = "loaders/LoRA Stack"
    inputs = [sockets("model"), _row_inputs, ENERGY]

    @classmethod
    def execute(cls, model: LoadedModel, energy: float = 1.0, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(_added(model, energy, *((name, Strengths(strength)) for name, strength in _rows(inputs))))


class LoadICLora(_LoraNode):
    """A LoRA that was trained to follow a reference video."""

    id = "LTX2AVLoadICLora"
    title = "loaders/Load IC-LoRA"
    inputs = [sockets("model"), choice("lora", _loras, "loras"), widgets(Strengths, "strength"), ENERGY]
    outputs = {"model": ModelType, "downscale": io.Int, "temporal_scale": io.Int}

    @classmethod
    def execute(cls, model: LoadedModel, lora: str, strength: float, energy: float = 1.0) -> io.NodeOutput:
        added = _added(model, energy, (lora, Strengths(strength)))
        opened, _ = added.loras[-1]
        return io.NodeOutput(added, opened.downscale, opened.temporal_downscale)


def _added(model: LoadedModel, energy: float, *chosen: tuple[str, Strengths]) -> LoadedModel:
    """Return ``model`` with these LoRAs, and show how they fit; CheckpointError if one of them changes nothing."""
    paths = [(_path_for(model.models, name), strengths) for name, strengths in chosen]
    loras = [(_opened(path, Shrink(energy)), strengths) for path, strengths in paths if path is not None]
    reports = [str(compare(lora, model.models, strengths)) for lora, strengths in loras]
    host.show_text("\n".join(reports) or "no LoRA")
    return model.with_loras(*loras)


def _opened(path: Path, shrink: Shrink) -> Lora:
    """Open a LoRA; while one is shrunk, the node has a bar and can be stopped."""
    if shrink.energy == 1:
        return open_shrunk(path, shrink)
    host.show_status(f"shrinking {path.name}, once")
    return open_shrunk(path, shrink, on_layer=host.progress())


def _rows(inputs: dict[str, Any]) -> list[tuple[str, float]]:
    """Return name and strength of each row of the stack in which a LoRA is chosen."""
    rows = [(inputs.get(f"lora_{row}", NONE), inputs.get(f"strength_{row}", 1.0)) for row in range(1, ROWS + 1)]
    return [(name, strength) for name, strength in rows if name != NONE]


def _built_in() -> dict[str, Path]:
    """Return the LoRAs of the miniature, by the names under which they are listed."""
    return {f"{BUILT_IN}{path.stem}": path for path in sorted((MINIATURE / "loras").glob("*.safetensors"))}


def _path(name: str) -> Path:
    return _built_in().get(name) or host.model_file(name, "loras")


def _path_for(models: Models, name: str) -> Path | None:
    """Return where the LoRA of this name lies; None for the distilled one of a model that is made without it."""
    if name == DISTILLED:
        needs = recipe_of(models).refine.lora
        return find_distilled_lora(models, _paths(name)) if needs else None
    check_own_part(path := _path(name), "LoRA", models)
    return path


def _paths(name: str) -> list[Path]:
    """Return where the LoRA of this name lies, or all among which the distilled one of a model is looked for."""
    return paths_found(host.model_files("loras"), _path) if name == DISTILLED else [_path(name)]
