"""Where the official files are: for the download buttons, the notes of workflows, the help pages and README.md."""

from dataclasses import dataclass

HUB = "https://huggingface.co"
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
    """

    name: str
    directory: str
    repository: str
    loader: str
    group: str = ""
    label: str = ""
    gigabytes: int = 0

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


def _of_2_5(loader: str, folder: str, name: str, label: str, gigabytes: int = 0) -> File:
    """A file of LTX-2.5, whose repository has ComfyUI's folders; it is downloaded after its licence was accepted."""
    return File(f"{name}.safetensors", folder, f"Lightricks/LTX-2.5/{folder}", loader, "2.5", label, gigabytes)


FILES += (
    _of_2_5(_MODEL, "diffusion_models", "ltx-2.5-22b-distilled-transformer-bf16", "2.5 distilled", 42),
    _of_2_5(
        _MODEL, "diffusion_models", "ltx-2.5-22b-distilled-transformer-comfy-int8-convrot", "2.5 distilled int8", 22
    ),
    _of_2_5(_MODEL, "diffusion_models", "ltx-2.5-22b-dev-transformer-bf16", "2.5 dev", 42),
    _of_2_5(_MODEL, "diffusion_models", "ltx-2.5-22b-dev-transformer-comfy-int8-convrot", "2.5 dev int8", 22),
    _of_2_5(_MODEL, "vae", "ltx-2.5-video-vae-bf16", "video VAE 2.5", 1),
    _of_2_5(_MODEL, "vae", "ltx-2.5-video-vae-conv-bf16", "the same with a convolutional decoder", 1),
    _of_2_5(_MODEL, "vae", "ltx-2.5-audio-vae-bf16", "audio VAE 2.5"),
    _of_2_5(_MODEL, "model_patches", "ltx-2.5-duration-head-bf16", "duration head 2.5"),
    _of_2_5(_GEMMA, "text_encoders", "gemma4-12b-with-proj-ltx-2.5-bf16", "Gemma 4 of 2.5", 26),
    _of_2_5(_GEMMA, "text_encoders", "gemma4-12b-with-proj-ltx-2.5-comfy-int8-convrot", "Gemma 4 of 2.5 int8", 15),
    _of_2_5(_UPSCALER, "latent_upscale_models", "ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0", "upscaler 2.5", 1),
    _of_2_5(
        _UPSCALER, "latent_upscale_models", "ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0", "temporal upscaler 2.5"
    ),
    _of_2_5(_LORA, "loras", "ltx-2.5-22b-distilled-lora-450-bf16", "distilled LoRA 2.5", 9),
)  # fmt: skip


def links_of(groups: tuple[str, ...], visible: bool = False) -> str:
    """Files of these groups as Markdown, by their folder; ``visible`` leaves out what is behind the links."""
    parts = []
    for directory in dict.fromkeys(each.directory for each in FILES if each.group in groups):
        links = [_link(each.title, each.url, visible) for each in FILES if _listed(each, directory, groups)]
        parts.append(f"*models/{directory}* {', '.join(links)}")
    parts.append(", ".join(_link(label, url, visible) for label, url in LICENCES.items()))
    return f"**Files**: {'; '.join(parts)}"


def _listed(file: File, directory: str, groups: tuple[str, ...]) -> bool:
    return file.directory == directory and file.group in groups


def _link(label: str, url: str, visible: bool) -> str:
    return label if visible else f"[{label}]({url})"
