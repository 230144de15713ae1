"""Which files?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from comfy_api.latest import io

from ..ltx2_core.checkpoint import open_models
from ..ltx2_core.checkpoint.belonging import find_text_encoder
from ..ltx2_core.checkpoint.folders import files_of, is_shard
from ..ltx2_core.checkpoint.models import MINIATURE
from ..ltx2_core.checkpoint.parts import find_parts
from ..ltx2_core.checkpoint.text_encoder import open_text_encoder
from ..ltx2_core.checkpoint.upscaler import BUILT_IN as BUILT_IN_UPSCALER
from ..ltx2_core.checkpoint.upscaler import find_upscaler, open_upscaler
from ..ltx2_core.disk_cache import Stamp, stamps
from ..ltx2_core.lora import Strengths, open_text_lora
from ..ltx2_core.quantization import CASTS
from ..ltx2_core.settings import PRECISIONS, Resources
from . import host, inputs
from .engine import FollowsModel, LoadedGemma, LoadedModel, LoadedUpscaler
from .values import GemmaType, ModelType

BUILT_IN = "miniature (built in)"
INSIDE, NONE, AS_MODEL = "in the checkpoint", "none", "as the model"
AUTO_PART = "auto"
AS_NAMED = "as the file says"
KINDS = {AS_NAMED: None, "dev": False, "distilled": True}

# By these, folders as Hugging Face's libraries write them are known: those of diffusers, and Gemma's.
DIFFUSERS, GEMMA = "model_index.json", "config.json"

CHECKPOINTS = ("checkpoints", "diffusion_models")
PROJECTIONS = ("checkpoints", "text_encoders", "diffusion_models")
PATCHES = "model_patches"
PARTS = ("vae", "text_encoders", PATCHES)  # where the rest of a split model is found by content
VIDEO_VAES = ("vae", "vae_approx")
UPSCALERS = ("latent_upscale_models", "upscale_models")

# What is open somewhere in the graph: two loaders of the same files share their networks.
_open: WeakValueDictionary[tuple, LoadedModel | LoadedGemma] = WeakValueDictionary()


def _precision_input(effect: str, *more: str) -> io.Input:
    return io.Combo.Input(
        "precision",
        options=[*PRECISIONS, *more],
        optional=True,
        advanced=True,
        tooltip="What the networks compute in. auto takes bf16 on a graphics card and fp32 on a CPU, as far as "
        f"ComfyUI's own flags allow. {effect}",
    )


def _part_input(name: str, kinds: tuple[str, ...], tooltip: str, *first: str) -> io.Input:
    options = [*(first or (INSIDE,)), *host.model_files(*kinds)]
    return io.Combo.Input(name, options=options, optional=True, advanced=True, tooltip=tooltip)


def _split_inputs() -> list[io.Input]:
    return [
        _part_input(
            "video_vae",
            VIDEO_VAES,
            "The video VAE of a split model, from models/vae. It takes the place of the one in the checkpoint; "
            "if that has none, the first one there that belongs to its version is taken. A tiny decoder for drafts, "
            "such as taeltx2_3 in models/vae_approx, takes the place of the decoder alone.",
        ),
        _part_input(
            "audio_vae",
            ("vae",),
            "The audio VAE with vocoder of a split model, from models/vae, likewise.",
        ),
        _part_input(
            "text_projection",
            PROJECTIONS,
            "Where to find text projection and connectors if the checkpoint has none: a file from "
            "models/text_encoders, or any full checkpoint of the same LTX-2 version. That of LTX-2.5 is packed "
            "with its text encoder, and found there by itself.",
        ),
    ]


class LoadModel(io.ComfyNode):
    """Opens an LTX-2 checkpoint; its networks are read when the first node needs them."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVLoadModel",
            "loaders/Load Model",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[*_checkpoints(), BUILT_IN],
                    tooltip="The official single file, such as ltx-2-19b-dev.safetensors, from models/checkpoints, "
                    "the transformer of a split model, such as LTX-2.5, or a .gguf file from models/diffusion_models "
                    "or models/unet (its other files are found in their folders or chosen below), or a folder of "
                    "diffusers (with model_index.json) in one of them. The built-in miniature needs no download and "
                    "makes clips of a bouncing ball: good for trying a graph.",
                ),
                *_split_inputs(),
                _precision_input(
                    "fp32 takes twice the memory; fp16 is for cards without bf16, and may give black frames. fp8 and "
                    "int8 are auto with half the memory for the part that paints the picture: slightly softer detail, "
                    "less so in int8, while the sound keeps its full precision; cards that multiply fp8 (RTX 40 and "
                    "newer) are faster in it.",
                    *CASTS,
                ),
                io.Combo.Input(
                    "kind",
                    options=[*KINDS],
                    optional=True,
                    advanced=True,
                    tooltip="Whether this is a dev or a distilled model, which decides how many steps and how much "
                    "guidance LTX-2 Recipe and Schedule suggest: for files whose name says it wrongly, or not at all.",
                ),
                _part_input(
                    "duration_head",
                    (PATCHES,),
                    "What tells how long a clip of LTX-2.5 should be for its prompt, from models/model_patches: for "
                    "the length as the prompt needs in LTX-2 Empty AV Latent. auto takes the one that is there.",
                    AUTO_PART,
                    NONE,
                ),
                *inputs.widgets(Resources, "attention", "fold_loras", "devices", "torch_compile", devices=""),
            ],
            outputs={"model": ModelType},
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        checkpoint: str,
        precision: str = "",
        kind: str = "",
        attention: str = "",
        fold_loras: bool = False,
        devices: str = "",
        torch_compile: bool = False,
        **parts: str,
    ) -> list[Stamp]:
        return stamps(_paths(_files(checkpoint, **parts)))

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        precision: str = "auto",
        kind: str = AS_NAMED,
        attention: str = Resources.attention,
        fold_loras: bool = False,
        devices: str = "",
        torch_compile: bool = False,
        **parts: str,
    ) -> io.NodeOutput:
        files = _files(checkpoint, **parts)

        def open_files() -> LoadedModel:
            models = open_models(**files, distilled=KINDS[kind])
            host.log.info("Opened %s: LTX-%s with %s", checkpoint, models.version, ", ".join(models.sources))
            return LoadedModel(models, precision, attention, fold_loras, host.other_devices(devices), torch_compile)

        choices = precision, kind, attention, fold_loras, devices, torch_compile
        return io.NodeOutput(_opened(_paths(files), choices, open_files))


class LoadGemma(io.ComfyNode):
    """Opens a Gemma text encoder; it is read when the first prompt is encoded."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVLoadGemma",
            "loaders/Load Gemma",
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=[AS_MODEL, *_gemmas(), BUILT_IN],
                    tooltip="Gemma 3 12B from models/text_encoders or models/clip: one .safetensors or .gguf file with "
                    "the tokenizer inside, such as gemma_3_12B_it.safetensors, or a Hugging Face folder; for LTX-2.5 "
                    "its own Gemma 4, such as gemma4-12b-with-proj-ltx-2.5-bf16.safetensors. as the model takes the "
                    "first one there that the loaded model can read, and for the built-in miniature its own.",
                ),
                _precision_input("fp32 doubles the 24 GB that Gemma takes."),
                _part_input("lora", ("loras",), "A LoRA for Gemma from models/loras, or one with a part for it.", NONE),
                *inputs.widgets(Strengths, "strength", optional=True),
            ],
            outputs={"gemma": GemmaType},
        )

    @classmethod
    def fingerprint_inputs(cls, text_encoder: str, lora: str = NONE, **others: Any) -> list[Stamp]:
        encoders = [_gemma(name) for name in (_gemmas() if text_encoder == AS_MODEL else [text_encoder])]
        return stamps([*encoders, *([] if lora == NONE else [host.model_file(lora, "loras")])])

    @classmethod
    def execute(
        cls, text_encoder: str, precision: str = "auto", lora: str = NONE, strength: float = 1.0
    ) -> io.NodeOutput:
        def open_one(path: Path) -> LoadedGemma:
            gemma = _opened([path], (precision,), lambda: LoadedGemma(open_text_encoder(path), precision))
            title, layers = gemma.files.kind.title, gemma.files.config.layers
            host.log.info("Opened %s: %s with %d layers", path.name, title, layers)
            return gemma if lora == NONE else gemma.with_lora(open_text_lora(host.model_file(lora, "loras")), strength)

        if text_encoder != AS_MODEL:
            return io.NodeOutput(open_one(_gemma(text_encoder)))
        paths = [_gemma(name) for name in _gemmas()]
        return io.NodeOutput(FollowsModel(lambda models: open_one(find_text_encoder(models, paths))))


class LoadUpscaler(io.ComfyNode):
    """Opens a latent upscaler; it is read when a node needs it."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVLoadUpscaler",
            "loaders/Load Upscaler",
            inputs=[
                io.Combo.Input(
                    "upscaler",
                    options=[AS_MODEL, *_upscalers(), BUILT_IN],
                    tooltip="The official file, such as ltx-2.3-spatial-upscaler-x2-1.1.safetensors, from "
                    "models/latent_upscale_models or models/upscale_models, of the same LTX-2 version as the model. as "
                    "the model takes the one that enlarges twice and has the official name for the loaded model, and "
                    "for the built-in miniature its own; only LTX-2 nodes can take that.",
                )
            ],
            outputs={"upscaler": io.LatentUpscaleModel},
            shows=True,
        )

    @classmethod
    def fingerprint_inputs(cls, upscaler: str) -> list[Stamp]:
        return stamps([_upscaler(name) for name in (_upscalers() if upscaler == AS_MODEL else [upscaler])])

    @classmethod
    def execute(cls, upscaler: str) -> io.NodeOutput:
        if upscaler == AS_MODEL:
            paths = [_upscaler(name) for name in _upscalers()]
            return io.NodeOutput(FollowsModel(lambda models: LoadedUpscaler(find_upscaler(models, 2, paths))))
        file = open_upscaler(_upscaler(upscaler))
        host.show_text(cls.hidden.unique_id, f"Enlarges {file.config.enlarges}")
        return io.NodeOutput(LoadedUpscaler(file))


def _opened(paths: list[Path], choices: tuple[str | bool, ...], make: Callable[[], LoadedModel | LoadedGemma]) -> Any:
    """Return the value for these files and widgets: the one that is open already, if nothing has changed."""
    key = (*stamps(paths), *choices)
    value = _open.get(key) or make()
    _open[key] = value
    return value


def _files(
    checkpoint: str,
    video_vae: str = INSIDE,
    audio_vae: str = INSIDE,
    text_projection: str = INSIDE,
    duration_head: str = AUTO_PART,
) -> dict[str, Any]:
    """Return the chosen files, as ``open_models`` takes them."""
    built_in = MINIATURE / "ltx2-mini.safetensors"
    main = built_in if checkpoint == BUILT_IN else _checkpoint(checkpoint)
    projections = [host.model_file(name, *PROJECTIONS) for name in (text_projection,) if name != INSIDE]
    heads = [] if duration_head in (AUTO_PART, NONE) else [host.model_file(duration_head, PATCHES)]
    vaes = {"video_vae": (video_vae, VIDEO_VAES), "audio_vae": (audio_vae, ("vae",))}
    own = {kind: host.model_file(name, *folders) for kind, (name, folders) in vaes.items() if name != INSIDE}
    kinds = [kind for kind in PARTS if kind != PATCHES or duration_head == AUTO_PART]
    beside = [host.model_file(name, kind) for kind in kinds for name in host.model_files(kind)]
    chosen = [main, *projections, *heads]
    return {"checkpoint": [*chosen, *find_parts([*chosen, *own.values()], beside)], **own}


def _paths(files: dict[str, Any]) -> list[Path]:
    chosen = [*files["checkpoint"], *(path for kind, path in files.items() if kind != "checkpoint")]
    return [file for path in chosen for file in files_of(path)]


def _checkpoints() -> list[str]:
    """Return the names of folders of diffusers, and of files; a shard is no model by itself."""
    files = [name for name in host.model_files(*CHECKPOINTS) if not is_shard(name)]
    return [*files, *host.model_folders(DIFFUSERS, *CHECKPOINTS)]


def _checkpoint(name: str) -> Path:
    if name in host.model_folders(DIFFUSERS, *CHECKPOINTS):
        return host.model_folder(name, DIFFUSERS, *CHECKPOINTS)
    return host.model_file(name, *CHECKPOINTS)


def _gemmas() -> list[str]:
    """Return the names of folders, and of files that are not parts of these folders."""
    folders = host.model_folders(GEMMA, "text_encoders")
    files = [name for name in host.model_files("text_encoders") if not is_shard(name)]
    return [*(name for name in files if str(Path(name).parent) not in folders), *folders]


def _gemma(name: str) -> Path:
    if name == BUILT_IN:
        return MINIATURE / "gemma-mini"
    if name in host.model_folders(GEMMA, "text_encoders"):
        return host.model_folder(name, GEMMA, "text_encoders")
    return host.model_file(name, "text_encoders")


def _upscalers() -> list[str]:
    return host.model_files(*UPSCALERS)


def _upscaler(name: str) -> Path:
    return BUILT_IN_UPSCALER if name == BUILT_IN else host.model_file(name, *UPSCALERS)
