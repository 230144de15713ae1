"""Which LoRAs, and how strongly?"""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..ltx2_core.checkpoint.models import MINIATURE
from ..ltx2_core.lora import Strengths, compare, open_lora
from ..ltx2_core.lora.stack import parse_blocks, parse_schedule
from . import host
from .engine import LoadedModel
from .inputs import model_input, schema, settings_from, widgets
from .values import ModelType

BUILT_IN = "built-in: "
NONE = "none"
ROWS = 10  # of the stack; js/stack.js shows as many as are used, and one more

MODEL = model_input("The LTX-2 model, from LTX-2 Load Model or another LoRA node.")


def _lora_input(name: str = "lora", *first: str, more: str = "", **options: Any) -> io.Input:
    return io.Combo.Input(
        name,
        options=[*first, *_built_in(), *host.model_files("loras")],
        tooltip="A LoRA for LTX-2 from models/loras, of any trainer: official, ComfyUI, PEFT, diffusers, kohya, "
        f"musubi, LyCORIS. The built-in ones are for the miniature.{more}",
        **options,
    )


def _model_output(use: str = "For the sampler; text encoding and decoding may take either.") -> io.Output:
    return ModelType.Output(
        display_name="model",
        tooltip="The same model with the LoRA. It shares memory with the one that came in, which stays without it. "
        + use,
    )


class LoadLora(io.ComfyNode):
    """One LoRA with one strength."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVLoadLora",
            "Load LoRA",
            "loaders",
            description="Adds a LoRA to the model: a camera move, a style, a character, or the distilled LoRA. Says on "
            "the node how much of it fits. Connect several in a row to add them up.",
            aliases=["lora", "lora loader", "load lora", "lora loader model only", "camera lora", "style lora"],
            inputs=[MODEL, _lora_input(), *widgets(Strengths, "strength")],
            outputs=[_model_output()],
            shows=True,
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str, **others: Any) -> Any:
        return _stamp(lora)

    @classmethod
    def execute(cls, model: LoadedModel, lora: str, strength: float) -> io.NodeOutput:
        return io.NodeOutput(_added(cls, model, (lora, Strengths(strength))))


class LoadLoraAdvanced(io.ComfyNode):
    """One LoRA with a strength for each stream, for some blocks, and over the run."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVLoadLoraAdvanced",
            "Load LoRA (advanced)",
            "loaders",
            description="A LoRA with its own strength for picture, sound, and what each takes from the other; for some "
            "blocks only, and changing over the run. With audio at 0, a LoRA that was trained on silent clips leaves "
            "voices alone.",
            aliases=["lora", "lora loader", "lora block weight", "lora schedule", "audio lora", "lora strength"],
            inputs=[
                MODEL,
                _lora_input(),
                *widgets(Strengths, "strength", "video", "audio", "audio_to_video", "video_to_audio"),
                *widgets(Strengths, "text", "blocks", "schedule", "schedule_over", optional=True),
            ],
            outputs=[_model_output()],
            shows=True,
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str, **others: Any) -> Any:
        return _stamp(lora)

    @classmethod
    def execute(cls, model: LoadedModel, lora: str, **strengths: Any) -> io.NodeOutput:
        strengths["blocks"] = parse_blocks(strengths.get("blocks", "all"), model.models.layers)
        strengths["schedule"] = parse_schedule(strengths.get("schedule", "constant"))
        return io.NodeOutput(_added(cls, model, (lora, settings_from(Strengths, strengths))))


class LoraStack(io.ComfyNode):
    """Several LoRAs in one node."""

    @classmethod
    def define_schema(cls):
        rows: list[io.Input] = []
        for row in range(1, ROWS + 1):
            (strength,) = widgets(Strengths, "strength", optional=row > 1)
            strength.id = f"strength_{row}"
            rows.append(_lora_input(f"lora_{row}", NONE, more=" Choosing one brings the next row.", optional=row > 1))
            rows.append(strength)
        return schema(
            "LTX2AVLoraStack",
            "LoRA Stack",
            "loaders",
            description=f"Up to {ROWS} LoRAs in one node, each with its strength; they add up, in any order. Says on "
            "the node how much of each fits.",
            aliases=["lora", "lora stack", "power lora loader", "multiple loras", "lora stacker"],
            inputs=[MODEL, *rows],
            outputs=[_model_output()],
            shows=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> Any:
        return [_stamp(name) for name, _ in _rows(inputs)]

    @classmethod
    def execute(cls, model: LoadedModel, **inputs: Any) -> io.NodeOutput:
        chosen = [(name, Strengths(strength)) for name, strength in _rows(inputs)]
        return io.NodeOutput(_added(cls, model, *chosen))


class LoadICLora(io.ComfyNode):
    """A LoRA that was trained to follow a reference video."""

    @classmethod
    def define_schema(cls):
        return schema(
            "LTX2AVLoadICLora",
            "Load IC-LoRA",
            "loaders",
            description="An in-context LoRA: it makes the model follow a reference video, such as depth, poses, edges "
            "or an earlier take. Connect both numbers to the node that takes the reference.",
            aliases=["ic-lora", "iclora", "in-context lora", "control", "depth", "pose", "canny", "union control"],
            inputs=[MODEL, _lora_input(), *widgets(Strengths, "strength")],
            outputs=[
                _model_output("For the sampler of the stage that gets the reference."),
                io.Int.Output(
                    display_name="downscale",
                    tooltip="How many times smaller than the clip the reference shall be, as the file says; else 1.",
                ),
                io.Int.Output(
                    display_name="temporal_scale",
                    tooltip="Every how many frames the reference has one, as the file says; else 1.",
                ),
            ],
            shows=True,
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str, **others: Any) -> Any:
        return _stamp(lora)

    @classmethod
    def execute(cls, model: LoadedModel, lora: str, strength: float) -> io.NodeOutput:
        added = _added(cls, model, (lora, Strengths(strength)))
        opened, _ = added.loras[-1]
        return io.NodeOutput(added, opened.downscale, opened.temporal_downscale)


def _added(node: type[io.ComfyNode], model: LoadedModel, *chosen: tuple[str, Strengths]) -> LoadedModel:
    """Return ``model`` with these LoRAs, and show how they fit; CheckpointError if one of them changes nothing."""
    loras = [(open_lora(_path(name)), strengths) for name, strengths in chosen]
    reports = [str(compare(lora, model.models)) for lora, _ in loras]
    host.show_text(node.hidden.unique_id, "\n".join(reports) or "no LoRA")
    return model.with_loras(*loras)


def _rows(inputs: dict[str, Any]) -> list[tuple[str, float]]:
    """Return name and strength of each row of the stack in which a LoRA is chosen."""
    rows = [(inputs.get(f"lora_{row}", NONE), inputs.get(f"strength_{row}", 1.0)) for row in range(1, ROWS + 1)]
    return [(name, strength) for name, strength in rows if name != NONE]


def _built_in() -> dict[str, Path]:
    """Return the LoRAs of the miniature, by the names under which they are listed."""
    return {f"{BUILT_IN}{path.stem}": path for path in sorted((MINIATURE / "loras").glob("*.safetensors"))}


def _path(name: str) -> Path:
    return _built_in().get(name) or host.model_file(name, "loras")


def _stamp(name: str) -> list[tuple[str, int, int]]:
    return host.stamps([_path(name)])
