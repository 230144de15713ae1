"""Which files?"""

from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from comfy_api.latest import io

from ..ltx2_core.checkpoint import open_models
from ..ltx2_core.checkpoint.belonging import FollowsModel, find_text_encoder
from ..ltx2_core.checkpoint.folders import files_of, is_shard
from ..ltx2_core.checkpoint.listed import paths_found
from ..ltx2_core.checkpoint.models import BUILT_IN as BUILT_IN_MODEL
from ..ltx2_core.checkpoint.models import BUILT_IN_GEMMA
from ..ltx2_core.checkpoint.parts import find_parts
from ..ltx2_core.checkpoint.text_encoder import open_text_encoder
from ..ltx2_core.checkpoint.upscaler import BUILT_IN as BUILT_IN_UPSCALER
from ..ltx2_core.checkpoint.upscaler import find_upscaler, open_upscaler
from ..ltx2_core.disk_cache import Stamp, stamps
from ..ltx2_core.fields import settings_from
from ..ltx2_core.lora import Strengths, files_of_lora, open_text_lora
from ..ltx2_core.quantization import CASTS
from ..ltx2_core.settings import PRECISIONS, Resources
from . import host
from .engine import LoadedGemma, LoadedModel, LoadedUpscaler
from .inputs import FOLDED, choice, widgets
from .node import Node
from .values import GemmaType, ModelType

BUILT_IN = "miniature (built in)"
INSIDE, NONE, AUTO, AS_MODEL, AS_NAMED = "in the checkpoint", "none", "auto", "as the model", "as the file says"
KINDS = {AS_NAMED: None, "dev": False, "distilled": True}

# By these, folders as Hugging Face's libraries write them are known: those of diffusers, and Gemma's.
DIFFUSERS, GEMMA = "model_index.json", "config.json"

CHECKPOINTS = ("checkpoints", "diffusion_models")
PATCHES = "model_patches"
PARTS = ("vae", "text_encoders", PATCHES)  # where the rest of a split model is found by content
# Where the files are that are chosen beside the checkpoint.
FOLDERS = {
    "video_vae": ("vae", "vae_approx"),
    "audio_vae": ("vae",),
    "text_projection": ("checkpoints", "text_encoders", "diffusion_models"),
    "duration_head": (PATCHES,),
}
UPSCALERS = ("latent_upscale_models", "upscale_models")

# What is open somewhere in the graph: two loaders of the same files share their networks.
_open: WeakValueDictionary[tuple, LoadedModel | LoadedGemma] = WeakValueDictionary()


class LoadModel(Node):
    """Opens an LTX-2 checkpoint; its networks are read when the first node needs them."""

    id = "LTX2AVLoadModel"
    title = "loaders/Load Model"
    inputs = [
        choice("checkpoint", lambda *_: [*_checkpoints(), BUILT_IN], *CHECKPOINTS),
        choice("video_vae", lambda *of: [INSIDE, *host.model_files(*of)], *FOLDERS["video_vae"], **FOLDED),
        choice("audio_vae", lambda *of: [INSIDE, *host.model_files(*of)], *FOLDERS["audio_vae"], **FOLDED),
        choice("text_projection", lambda *of: [INSIDE, *host.model_files(*of)], *FOLDERS["text_projection"], **FOLDED),
        choice("precision", lambda: [*PRECISIONS, *CASTS], **FOLDED),
        choice("kind", lambda: [*KINDS], **FOLDED),
        choice("duration_head", lambda *of: [AUTO, NONE, *host.model_files(*of)], PATCHES, **FOLDED),
        widgets(Resources, "attention", "fold_loras", "devices", "torch_compile", "cuda_graphs", devices=""),
    ]
    outputs = {"model": ModelType}

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str, **others: Any) -> list[Stamp]:
        return stamps(_paths(_files(checkpoint, others)))

    @classmethod
    def execute(
        cls, checkpoint: str, precision: str = "auto", kind: str = AS_NAMED, devices: str = "", **others: Any
    ) -> io.NodeOutput:
        files = _files(checkpoint, others)
        how = settings_from(Resources, others)

        def open_files() -> LoadedModel:
            models = open_models(**files, distilled=KINDS[kind])
            host.log.info("Opened %s: LTX-%s with %s", checkpoint, models.version, ", ".join(models.sources))
            return LoadedModel(models, precision, how, host.other_devices(devices))

        return io.NodeOutput(_opened(_paths(files), (precision, kind, devices, how), open_files))


class LoadGemma(Node):
    """Opens a Gemma text encoder; it is read when the first prompt is encoded."""

    id = "LTX2AVLoadGemma"
    title = "loaders/Load Gemma"
    inputs = [
        choice("text_encoder", lambda *_: [AS_MODEL, *_gemmas(), BUILT_IN], "text_encoders"),
        choice("precision", lambda: [*PRECISIONS], **FOLDED),
        choice("lora", lambda *of: [NONE, *host.model_files(*of)], "loras", **FOLDED),
        widgets(Strengths, "strength", optional=True),
    ]
    outputs = {"gemma": GemmaType}

    @classmethod
    def fingerprint_inputs(cls, text_encoder: str, lora: str = NONE, **others: Any) -> list[Stamp]:
        encoders = paths_found(_gemmas(), _gemma) if text_encoder == AS_MODEL else [_gemma(text_encoder)]
        return stamps([*encoders, *([] if lora == NONE else files_of_lora(host.model_file(lora, "loras")))])

    @classmethod
    def execute(
        cls, text_encoder: str, precision: str = "auto", lora: str = NONE, strength: float = 1.0
    ) -> io.NodeOutput:
        def open_one(path: Path) -> LoadedGemma:
            gemma = _opened([path], (precision,), lambda: LoadedGemma(open_text_encoder(path), precision))
            host.log.info("Opened %s: %s, %d layers", path.name, gemma.files.kind.title, gemma.files.config.layers)
            return gemma if lora == NONE else gemma.with_lora(open_text_lora(host.model_file(lora, "loras")), strength)

        if text_encoder != AS_MODEL:
            return io.NodeOutput(open_one(_gemma(text_encoder)))
        paths = paths_found(_gemmas(), _gemma)
        return io.NodeOutput(FollowsModel(lambda models: open_one(find_text_encoder(models, paths))))


class LoadUpscaler(Node):
    """Opens a latent upscaler; it is read when a node needs it."""

    id = "LTX2AVLoadUpscaler"
    title = "loaders/Load Upscaler"
    inputs = [choice("upscaler", lambda *of: [AS_MODEL, *host.model_files(*of), BUILT_IN], *UPSCALERS)]
    outputs = {"upscaler": io.LatentUpscaleModel}
    shows = True

    @classmethod
    def fingerprint_inputs(cls, upscaler: str) -> list[Stamp]:
        names = host.model_files(*UPSCALERS)
        return stamps(paths_found(names, _upscaler) if upscaler == AS_MODEL else [_upscaler(upscaler)])

    @classmethod
    def execute(cls, upscaler: str) -> io.NodeOutput:
        if upscaler == AS_MODEL:
            paths = paths_found(host.model_files(*UPSCALERS), _upscaler)
            return io.NodeOutput(FollowsModel(lambda models: LoadedUpscaler(find_upscaler(models, 2, paths))))
        file = open_upscaler(_upscaler(upscaler))
        cls.show(f"Enlarges {file.config.enlarges}")
        return io.NodeOutput(LoadedUpscaler(file))


def _opened(paths: list[Path], choices: tuple[Hashable, ...], make: Callable[[], LoadedModel | LoadedGemma]) -> Any:
    """Return the value for these files and widgets: the one that is open already, if nothing has changed."""
    key = (*stamps(paths), *choices)
    value = _open[key] = _open.get(key) or make()  # named, because the table does not keep it
    return value


def _files(checkpoint: str, others: dict[str, Any]) -> dict[str, Any]:
    """Return the chosen files, as ``open_models`` takes them; ``others`` are values of the other widgets."""
    main = BUILT_IN_MODEL if checkpoint == BUILT_IN else host.model_path(checkpoint, DIFFUSERS, *CHECKPOINTS)
    named = {part: name for part in FOLDERS if (name := others.get(part, AUTO)) not in (INSIDE, AUTO, NONE)}
    own = {part: host.model_file(name, *FOLDERS[part]) for part, name in named.items()}
    inside = [own.pop(part) for part in ("text_projection", "duration_head") if part in own]
    kinds = [kind for kind in PARTS if kind != PATCHES or others.get("duration_head", AUTO) == AUTO]
    beside = [path for kind in kinds for path in paths_found(host.model_files(kind), host.model_file, kind)]
    chosen = [main, *inside]
    return {"checkpoint": [*chosen, *_parts_of((*chosen, *own.values()), tuple(beside))], **own}


def _parts_of(chosen: tuple[Path, ...], beside: tuple[Path, ...]) -> list[Path]:
    """As ``find_parts``, which reads all headers: again only if a file has changed, or what lies beside one."""
    files = [*(file for path in chosen for file in files_of(path)), *beside]
    folders = ((folder, folder.stat().st_mtime_ns) for folder in {path.parent for path in files})
    return _find_parts(chosen, beside, (*stamps(files), *folders))


@lru_cache(maxsize=16)
def _find_parts(chosen: tuple[Path, ...], beside: tuple[Path, ...], state: tuple[Hashable, ...]) -> list[Path]:
    return find_parts(chosen, beside)


def _paths(files: dict[str, Any]) -> list[Path]:
    chosen = [*files["checkpoint"], *(path for kind, path in files.items() if kind != "checkpoint")]
    return [file for path in chosen for file in files_of(path)]


def _checkpoints() -> list[str]:
    """Return the names of folders of diffusers, and of files; a shard is no model by itself."""
    files = [name for name in host.model_files(*CHECKPOINTS) if not is_shard(name)]
    return [*files, *host.model_folders(DIFFUSERS, *CHECKPOINTS)]


def _gemmas() -> list[str]:
    """Return the names of folders, and of files that are not parts of these folders."""
    folders = host.model_folders(GEMMA, "text_encoders")
    files = [name for name in host.model_files("text_encoders") if not is_shard(name)]
    return [*(name for name in files if str(Path(name).parent) not in folders), *folders]


def _gemma(name: str) -> Path:
    return BUILT_IN_GEMMA if name == BUILT_IN else host.model_path(name, GEMMA, "text_encoders")


def _upscaler(name: str) -> Path:
    return BUILT_IN_UPSCALER if name == BUILT_IN else host.model_file(name, *UPSCALERS)
