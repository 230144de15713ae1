"""Which LoRAs, and how strongly?"""

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..ltx2_core.checkpoint.models import MINIATURE
from ..ltx2_core.lora import Strengths, compare, open_lora, stack
from . import host
from .types import LoadedModel, Model

BUILT_IN = "built-in: "
NONE = "none"
ROWS = 10  # of the stack; js/stack.js shows as many as are used, and one more

OVERALL = "1 is as trained, 0 is without it, negative does the opposite."


def _lora(name: str = "lora", *first: str, more: str = "", **options: Any) -> io.Combo.Input:
    return io.Combo.Input(
        name,
        options=[*first, *_built_in(), *host.model_files("loras")],
        tooltip="A LoRA for LTX-2 from models/loras, of any trainer: official, ComfyUI, PEFT, diffusers, kohya, "
        f"musubi, LyCORIS. The built-in ones are for the miniature.{more}",
        **options,
    )


def _strength(
    name: str = "strength", tooltip: str = OVERALL, default: float = 1.0, least: float = -10.0, **options: Any
) -> io.Float.Input:
    return io.Float.Input(
        name, default=default, min=least, max=10.0, step=0.05, round=0.001, tooltip=tooltip, **options
    )


def _model_input() -> io.Input:
    return Model.Input("model", tooltip="The LTX-2 model, from LTX-2 Load Model or another LoRA node.")


def _model_output(tooltip: str = "") -> io.Output:
    return Model.Output(
        display_name="model",
        tooltip="The same model with the LoRA. It shares memory with the one that came in, which stays without it. "
        + (tooltip or "For the sampler; text encoding and decoding may take either."),
    )


class LoadLora(io.ComfyNode):
    """One LoRA with one strength."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVLoadLora",
            display_name="LTX-2 Load LoRA",
            category="LTX-2/loaders",
            description="Adds a LoRA to the model: a camera move, a style, a character, or the distilled LoRA. Says on "
            "the node how much of it fits. Connect several in a row to add them up.",
            search_aliases=["lora", "lora loader", "load lora", "lora loader model only", "camera lora", "style lora"],
            hidden=[io.Hidden.unique_id],
            inputs=[_model_input(), _lora(), _strength()],
            outputs=[_model_output()],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str, **others: Any):
        return _fingerprint(lora)

    @classmethod
    def execute(cls, model: LoadedModel, lora: str, strength: float) -> io.NodeOutput:
        return io.NodeOutput(_added(cls, model, (lora, Strengths(strength))))


class LoadLoraAdvanced(io.ComfyNode):
    """One LoRA with a strength for each stream, for some blocks, and over the run."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVLoadLoraAdvanced",
            display_name="LTX-2 Load LoRA (advanced)",
            category="LTX-2/loaders",
            description="A LoRA with its own strength for picture, sound, and what each takes from the other; for some "
            "blocks only, and changing over the run. With audio at 0, a LoRA that was trained on silent clips leaves "
            "voices alone.",
            search_aliases=["lora", "lora loader", "lora block weight", "lora schedule", "audio lora", "lora strength"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                _model_input(),
                _lora(),
                _strength(tooltip=f"Multiplies all strengths below. {OVERALL}"),
                _strength("video", "For the layers that paint the picture."),
                _strength("audio", "For the layers that make the sound. 0 keeps speech and noises as they are."),
                _strength("audio_to_video", "For the layers through which the sound moves the picture: lips, impacts."),
                _strength("video_to_audio", "For the layers through which the picture makes itself heard."),
                _strength(
                    "text",
                    "For the text projection and the connectors, which few LoRAs change. It acts where the prompt is "
                    "encoded, so connect this model there, too.",
                    optional=True,
                ),
                io.String.Input(
                    "blocks",
                    default="all",
                    optional=True,
                    tooltip="Which of the transformer's blocks (48 in the released models, counted from 0) it changes, "
                    "such as 0-23, 40. All other layers get none of it. Early blocks lay out, late ones add detail.",
                ),
                io.String.Input(
                    "schedule",
                    default="constant",
                    optional=True,
                    tooltip="A further factor over the run: moments and strengths, such as 1.0: 1, 0.5: 0.3, straight "
                    "between them. High noise levels decide the composition, low ones detail. Costs a little time.",
                ),
                io.Combo.Input(
                    "schedule_over",
                    options=["sigmas", "steps"],
                    optional=True,
                    tooltip="What the moments are: noise levels from 1 to 0, or numbers of steps, counted from 0.",
                ),
            ],
            outputs=[_model_output()],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str, **others: Any):
        return _fingerprint(lora)

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        lora: str,
        strength: float,
        video: float,
        audio: float,
        audio_to_video: float,
        video_to_audio: float,
        text: float = 1.0,
        blocks: str = "all",
        schedule: str = "constant",
        schedule_over: str = "sigmas",
    ) -> io.NodeOutput:
        strengths = Strengths(
            strength,
            *(video, audio, audio_to_video, video_to_audio, text),
            blocks=stack.parse_blocks(blocks, model.models.layers),
            schedule=stack.parse_schedule(schedule),
            schedule_over=schedule_over,
        )
        return io.NodeOutput(_added(cls, model, (lora, strengths)))


class LoraStack(io.ComfyNode):
    """Several LoRAs in one node."""

    @classmethod
    def define_schema(cls):
        rows = [
            each
            for row in range(1, ROWS + 1)
            for each in (
                _lora(f"lora_{row}", NONE, more=" Choosing one brings the next row.", optional=row > 1),
                _strength(f"strength_{row}", optional=row > 1),
            )
        ]
        return io.Schema(
            node_id="LTX2AVLoraStack",
            display_name="LTX-2 LoRA Stack",
            category="LTX-2/loaders",
            description=f"Up to {ROWS} LoRAs in one node, each with its strength; they add up, in any order. Says on "
            "the node how much of each fits.",
            search_aliases=["lora", "lora stack", "power lora loader", "multiple loras", "lora stacker"],
            hidden=[io.Hidden.unique_id],
            inputs=[_model_input(), *rows],
            outputs=[_model_output()],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any):
        return [_fingerprint(name) for name, _ in _rows(inputs)]

    @classmethod
    def execute(cls, model: LoadedModel, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(_added(cls, model, *((name, Strengths(strength)) for name, strength in _rows(inputs))))


class LoadICLora(io.ComfyNode):
    """A LoRA that was trained to follow a reference video."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVLoadICLora",
            display_name="LTX-2 Load IC-LoRA",
            category="LTX-2/loaders",
            description="An in-context LoRA: it makes the model follow a reference video, such as depth, poses, edges "
            "or an earlier take. Connect both numbers to the node that takes the reference.",
            search_aliases=[
                "ic-lora",
                "iclora",
                "in-context lora",
                "control",
                "depth",
                "pose",
                "canny",
                "union control",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[_model_input(), _lora(), _strength()],
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
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str, **others: Any):
        return _fingerprint(lora)

    @classmethod
    def execute(cls, model: LoadedModel, lora: str, strength: float) -> io.NodeOutput:
        added = _added(cls, model, (lora, Strengths(strength)))
        opened, _ = added.loras[-1]
        return io.NodeOutput(added, opened.downscale, opened.temporal_downscale)


def _added(node: type[io.ComfyNode], model: LoadedModel, *chosen: tuple[str, Strengths]) -> LoadedModel:
    """``model`` with these LoRAs; the node says how they fit. CheckpointError if one of them changes nothing."""
    loras = [(open_lora(_path(name)), strengths) for name, strengths in chosen]
    reports = [str(compare(lora, model.models)) for lora, _ in loras]
    host.say(node.hidden.unique_id, "\n".join(reports) or "no LoRA")
    return model.with_loras(*loras)


def _rows(inputs: dict[str, Any]) -> list[tuple[str, float]]:
    """The rows of the stack in which a LoRA is chosen: its name and its strength."""
    rows = [(inputs.get(f"lora_{row}", NONE), inputs.get(f"strength_{row}", 1.0)) for row in range(1, ROWS + 1)]
    return [(name, strength) for name, strength in rows if name != NONE]


def _built_in() -> dict[str, Path]:
    """The LoRAs of the miniature, by the names under which they are listed."""
    return {f"{BUILT_IN}{path.stem}": path for path in sorted((MINIATURE / "loras").glob("*.safetensors"))}


def _path(name: str) -> Path:
    return _built_in().get(name) or host.model_file(name, "loras")


def _fingerprint(name: str) -> list[tuple[str, int, int]]:
    return host.fingerprint([_path(name)])
