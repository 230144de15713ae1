"""Which files?"""

from collections.abc import Callable
from pathlib import Path
from weakref import WeakValueDictionary

from comfy_api.latest import io

from ..ltx2_core.checkpoint import open_models
from ..ltx2_core.checkpoint.models import MINIATURE
from ..ltx2_core.checkpoint.text_encoder import open_text_encoder
from ..ltx2_core.quantization import CASTS
from . import host
from .types import PRECISIONS, Gemma, LoadedGemma, LoadedModel, Model

BUILT_IN = "miniature (built in)"
INSIDE = "in the checkpoint"

CHECKPOINTS = ("checkpoints", "diffusion_models")
PROJECTIONS = ("checkpoints", "text_encoders", "diffusion_models")


# What is open somewhere in the graph: two loaders of the same files share their networks.
_open: WeakValueDictionary[tuple, LoadedModel | LoadedGemma] = WeakValueDictionary()


def _precision(effect: str, *more: str) -> io.Combo.Input:
    return io.Combo.Input(
        "precision",
        options=[*PRECISIONS, *more],
        optional=True,
        advanced=True,
        tooltip="What the networks compute in. auto takes bf16 on a graphics card and fp32 on a CPU, as far as "
        f"ComfyUI's own flags allow. {effect}",
    )


class LoadModel(io.ComfyNode):
    """Opens an LTX-2 checkpoint; its networks are read when the first node needs them."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVLoadModel",
            display_name="LTX-2 Load Model",
            category="LTX-2/loaders",
            description="Opens an LTX-2.0 or LTX-2.3 checkpoint: transformer, text projection, video and audio VAE, "
            "vocoder. Connect it to all other LTX-2 nodes.",
            search_aliases=["load checkpoint", "checkpoint loader", "unet loader", "load diffusion model", "ltxv"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[BUILT_IN, *host.model_files(*CHECKPOINTS)],
                    tooltip="The official single file, such as ltx-2-19b-dev.safetensors, from models/checkpoints, or "
                    "the transformer of a split model from models/diffusion_models. The built-in miniature needs no "
                    "download and makes clips of a bouncing ball: good for trying a graph.",
                ),
                io.Combo.Input(
                    "video_vae",
                    options=[INSIDE, *host.model_files("vae")],
                    optional=True,
                    advanced=True,
                    tooltip="The video VAE of a split model, from models/vae. It takes the place of the one in the "
                    "checkpoint.",
                ),
                io.Combo.Input(
                    "audio_vae",
                    options=[INSIDE, *host.model_files("vae")],
                    optional=True,
                    advanced=True,
                    tooltip="The audio VAE with vocoder of a split model, from models/vae. It takes the place of the "
                    "one in the checkpoint.",
                ),
                io.Combo.Input(
                    "text_projection",
                    options=[INSIDE, *host.model_files(*PROJECTIONS)],
                    optional=True,
                    advanced=True,
                    tooltip="Where to find text projection and connectors if the checkpoint has none; any full "
                    "checkpoint of the same LTX-2 version will do.",
                ),
                _precision(
                    "fp32 takes twice the memory; fp16 is for cards without bf16, and may give black frames. fp8 is "
                    "auto with half the memory for the part that paints the picture: slightly softer detail, while the "
                    "sound keeps its full precision.",
                    *CASTS,
                ),
            ],
            outputs=[
                Model.Output(
                    display_name="model",
                    tooltip="The opened model. Its networks are read when they are first needed and then kept, so a "
                    "second run with another seed reads nothing.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint, video_vae=INSIDE, audio_vae=INSIDE, text_projection=INSIDE, precision="auto"
    ):
        return host.fingerprint(_files(checkpoint, video_vae, audio_vae, text_projection))

    @classmethod
    def execute(
        cls, checkpoint, video_vae=INSIDE, audio_vae=INSIDE, text_projection=INSIDE, precision="auto"
    ) -> io.NodeOutput:
        files = _files(checkpoint, video_vae, audio_vae, text_projection)

        def open_files() -> LoadedModel:
            models = open_models(files)
            host.log.info("Opened %s: LTX-%s with %s", checkpoint, models.version, ", ".join(models.sources))
            return LoadedModel(models, precision)

        return io.NodeOutput(_opened(files, precision, open_files))


class LoadGemma(io.ComfyNode):
    """Opens a Gemma 3 text encoder; it is read when the first prompt is encoded."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LTX2AVLoadGemma",
            display_name="LTX-2 Load Gemma",
            category="LTX-2/loaders",
            description="Opens Gemma 3 12B, the language model that reads the prompts of LTX-2.0 and LTX-2.3. "
            "Connect it to LTX-2 Gemma Text Encode.",
            search_aliases=["load clip", "clip loader", "load text encoder", "dual clip loader", "gemma 3 12b"],
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=[BUILT_IN, *_gemmas()],
                    tooltip="Gemma 3 12B from models/text_encoders: one .safetensors file with the tokenizer inside, "
                    "such as gemma_3_12B_it.safetensors, or a Hugging Face folder. The built-in miniature belongs to "
                    "the built-in model.",
                ),
                _precision("fp32 doubles the 24 GB that Gemma takes."),
            ],
            outputs=[Gemma.Output(display_name="gemma", tooltip="The opened text encoder, not yet in memory.")],
        )

    @classmethod
    def fingerprint_inputs(cls, text_encoder, precision="auto"):
        return host.fingerprint([_gemma(text_encoder)])

    @classmethod
    def execute(cls, text_encoder, precision="auto") -> io.NodeOutput:
        path = _gemma(text_encoder)

        def open_files() -> LoadedGemma:
            gemma = LoadedGemma(open_text_encoder(path), precision)
            host.log.info("Opened %s: Gemma 3 with %d layers", text_encoder, gemma.config.layers)
            return gemma

        return io.NodeOutput(_opened([path], precision, open_files))


def _opened(paths: list[Path], precision: str, make: Callable[[], LoadedModel | LoadedGemma]):
    """The value for these files in this precision: the one that is open already, if nothing has changed."""
    key = (*host.fingerprint(paths), precision)
    value = _open.get(key) or make()
    _open[key] = value
    return value


def _files(checkpoint: str, video_vae: str, audio_vae: str, text_projection: str) -> list[Path]:
    """The chosen files; where two of them hold the same component, the earlier one counts."""
    built_in = MINIATURE / "ltx2-mini.safetensors"
    main = built_in if checkpoint == BUILT_IN else host.model_file(checkpoint, *CHECKPOINTS)
    vaes = [host.model_file(name, "vae") for name in (video_vae, audio_vae) if name != INSIDE]
    projections = [host.model_file(name, *PROJECTIONS) for name in (text_projection,) if name != INSIDE]
    return [*vaes, main, *projections]


def _gemmas() -> list[str]:
    """Folders, and files that are not parts of these folders."""
    folders = host.model_folders("text_encoders")
    files = [name for name in host.model_files("text_encoders") if str(Path(name).parent) not in folders]
    return [*files, *folders]


def _gemma(name: str) -> Path:
    if name == BUILT_IN:
        return MINIATURE / "gemma-mini"
    if name in host.model_folders("text_encoders"):
        return host.model_folder(name, "text_encoders")
    return host.model_file(name, "text_encoders")
