"""Where the official files are: for the download buttons, the notes of workflows, the help pages and README.md."""

from dataclasses import dataclass

HUB = "https://huggingface.co"
NEWEST = "Lightricks/LTX-2.5"
ONLY_NEWEST = "2.5"  # among the groups of a workflow that needs it
LICENCES = {
    "LTX-2 licence": f"{HUB}/Lightricks/LTX-2.3/blob/main/LICENSE",
    "Gemma licence": "https://ai.google.dev/gemma/terms",
}


@dataclass(frozen=True)
class File:
    """An official file.

    Attributes:
        name: of the file.
        directory: in ComfyUI's models.
        repository: on the hub, with the folder in it.
        loader: the node that reads it.
        group: under which a note lists it; "" for none.
        label: what a note calls it.
        gigabytes: its size; 0 where we do not know it.
        is_newest: whether it is of LTX-2.5, which comes in parts; labels of those leave the version out.
    """

    name: str
    directory: str
    repository: str
    loader: str
    group: str = ""
    label: str = ""
    gigabytes: int = 0
    is_newest: bool = False

    @property
    def title(self) -> str:
        """What a note calls it, with its size."""
        return f"{self.label} ({self.gigabytes} GB)" if self.gigabytes else self.label

    @property
    def url(self) -> str:
        """Where it is downloaded."""
        owner, name, *folders = self.repository.split("/")
        return "/".join([HUB, owner, name, "resolve", "main", *folders, self.name])

    @property
    def saved(self) -> dict[str, str]:
        """As a loader in a workflow names it, for ComfyUI's download button."""
        return {"name": self.name, "url": self.url, "directory": self.directory}


_MODEL, _GEMMA, _UPSCALER = "LTX2AVLoadModel", "LTX2AVLoadGemma", "LTX2AVLoadUpscaler"
_LORA, _IC_LORA = "LTX2AVLoadLora", "LTX2AVLoadICLora"

# Sizes: full checkpoints have all weights of the lists in tests/golden in bf16; the others are as published.
FILES = (
    File("ltx-2.3-22b-dev.safetensors", "checkpoints", "Lightricks/LTX-2.3", _MODEL, "models", "2.3 dev", 46),
    File("ltx-2.3-22b-dev-fp8.safetensors", "checkpoints", "Lightricks/LTX-2.3-fp8", _MODEL, "models", "2.3 dev fp8"),
    File(
        "ltx-2.3-22b-distilled-1.1.safetensors", "checkpoints", "Lightricks/LTX-2.3", _MODEL, "models", "2.3 distilled",
        46,
    ),
    File(
        "ltx-2.3-22b-distilled-fp8.safetensors", "checkpoints", "Lightricks/LTX-2.3-fp8", _MODEL, "models",
        "2.3 distilled fp8",
    ),
    File("ltx-2-19b-dev.safetensors", "checkpoints", "Lightricks/LTX-2", _MODEL, "models", "2.0 dev", 43),
    File("ltx-2-19b-dev-fp8.safetensors", "checkpoints", "Lightricks/LTX-2", _MODEL, "models", "2.0 dev fp8", 27),
    File("ltx-2-19b-distilled.safetensors", "checkpoints", "Lightricks/LTX-2", _MODEL, "models", "2.0 distilled", 43),
    File(
        "gemma_3_12B_it.safetensors", "text_encoders", "Comfy-Org/ltx-2/split_files/text_encoders", _GEMMA, "gemma",
        "Gemma 3 12B",
    ),
    File(
        "ltx-2.3-spatial-upscaler-x2-1.1.safetensors", "latent_upscale_models", "Lightricks/LTX-2.3", _UPSCALER,
        "upscalers", "upscaler 2.3", 1,
    ),
    File(
        "ltx-2-spatial-upscaler-x2-1.0.safetensors", "latent_upscale_models", "Lightricks/LTX-2", _UPSCALER,
        "upscalers", "upscaler 2.0", 1,
    ),
    File(
        "ltx-2.3-22b-distilled-lora-384.safetensors", "loras", "Lightricks/LTX-2.3", _LORA, "distilled_loras",
        "distilled LoRA 2.3",
    ),
    File(
        "ltx-2-19b-distilled-lora-384.safetensors", "loras", "Lightricks/LTX-2", _LORA, "distilled_loras",
        "distilled LoRA 2.0",
    ),
    File(
        "ltx-2-19b-lora-camera-control-dolly-left.safetensors", "loras",
        "Lightricks/LTX-2-19b-LoRA-Camera-Control-Dolly-Left", _LORA, "loras", "dolly left 2.0",
    ),
    File(
        "ltx-2.3-22b-ic-lora-union-control-ref0.5.safetensors", "loras",
        "Lightricks/LTX-2.3-22b-IC-LoRA-Union-Control", _IC_LORA, "ic_loras", "union control 2.3",
    ),
    File(
        "ltx-2-19b-ic-lora-canny-control.safetensors", "loras", "Lightricks/LTX-2-19b-IC-LoRA-Canny-Control",
        _IC_LORA, "ic_loras", "canny 2.0",
    ),
    File(
        "ltx-2-19b-ic-lora-depth-control.safetensors", "loras", "Lightricks/LTX-2-19b-IC-LoRA-Depth-Control",
        _IC_LORA, "ic_loras", "depth 2.0",
    ),
)  # fmt: skip


def _of_2_5(loader: str, folder: str, name: str, group: str, label: str, gigabytes: int = 0) -> File:
    """A file of LTX-2.5, whose repository has ComfyUI's folders; it is downloaded after its licence was accepted."""
    return File(f"{name}.safetensors", folder, f"{NEWEST}/{folder}", loader, group, label, gigabytes, is_newest=True)


_TRANSFORMERS, _ENCODERS, _UPSCALERS = "diffusion_models", "text_encoders", "latent_upscale_models"

FILES += (
    _of_2_5(_MODEL, _TRANSFORMERS, "ltx-2.5-22b-distilled-transformer-bf16", "models", "distilled", 42),
    _of_2_5(
        _MODEL, _TRANSFORMERS, "ltx-2.5-22b-distilled-transformer-comfy-int8-convrot", "models", "distilled int8", 22
    ),
    _of_2_5(_MODEL, _TRANSFORMERS, "ltx-2.5-22b-dev-transformer-bf16", "models", "dev", 42),
    _of_2_5(_MODEL, _TRANSFORMERS, "ltx-2.5-22b-dev-transformer-comfy-int8-convrot", "models", "dev int8", 22),
    _of_2_5(_MODEL, "vae", "ltx-2.5-video-vae-bf16", "models", "video VAE", 1),
    _of_2_5(_MODEL, "vae", "ltx-2.5-video-vae-conv-bf16", "", "the same with a convolutional decoder", 1),
    _of_2_5(_MODEL, "vae", "ltx-2.5-audio-vae-bf16", "models", "audio VAE"),
    _of_2_5(_MODEL, "model_patches", "ltx-2.5-duration-head-bf16", "", "duration head"),
    _of_2_5(_GEMMA, _ENCODERS, "gemma4-12b-with-proj-ltx-2.5-bf16", "gemma", "Gemma 4", 26),
    _of_2_5(_GEMMA, _ENCODERS, "gemma4-12b-with-proj-ltx-2.5-comfy-int8-convrot", "gemma", "Gemma 4 int8", 15),
    _of_2_5(_UPSCALER, _UPSCALERS, "ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0", "upscalers", "upscaler", 1),
    _of_2_5(_UPSCALER, _UPSCALERS, "ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0", "temporal", "temporal upscaler"),
    _of_2_5(_LORA, "loras", "ltx-2.5-22b-distilled-lora-450-bf16", "distilled_loras", "distilled LoRA", 9),
)


def links_of(groups: tuple[str, ...], visible: bool = False) -> str:
    """Files of these groups as Markdown, LTX-2.5 first, by their folder; ``visible`` leaves out what is behind links.

    Among the groups ``ONLY_NEWEST`` leaves earlier versions out.
    """
    newest = _link("LTX-2.5", f"{HUB}/{NEWEST}", visible)
    parts = [f"**Files of {newest}** (accept its licence there first): {_folders(groups, True, visible)}"]
    if ONLY_NEWEST not in groups:
        parts.append(f"**Files of 2.3 and 2.0**: {_folders(groups, False, visible)}")
    parts.append(", ".join(_link(label, url, visible) for label, url in LICENCES.items()))
    return "\n\n".join(parts)


def _folders(groups: tuple[str, ...], is_newest: bool, visible: bool) -> str:
    """The files of these groups and of such a version, after their folder."""
    links: dict[str, list[str]] = {}
    for each in FILES:
        if each.group in groups and each.is_newest == is_newest:
            links.setdefault(each.directory, []).append(_link(each.title, each.url, visible))
    return "; ".join(f"*models/{directory}* {', '.join(those)}" for directory, those in links.items())


def _link(label: str, url: str, visible: bool) -> str:
    return label if visible else f"[{label}]({url})"
