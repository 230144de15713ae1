"""From the states of all stages to one checkpoint in the official layout, and back."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...checkpoint import build, open_models
from ...checkpoint.components import COMPONENTS
from . import audio
from .config import AUDIO_CHANNELS, CONFIG, VERSION, VIDEO_CHANNELS
from .stage import keep

LICENSE = "Weights trained from scratch on synthetic data by this project; not derived from any LTX weights."

CHANNELS = {"video": VIDEO_CHANNELS, "audio": AUDIO_CHANNELS}

# Of each network: the stage that made it, and its name there.
MADE_BY = {
    "transformer": ("transformer", "average"),
    "text_features": ("text", "text_features"),
    "video_connector": ("text", "video_connector"),
    "audio_connector": ("text", "audio_connector"),
    "video_encoder": ("video-encoder", "encoder"),
    "video_decoder": ("video-decoder", "decoder"),
    "audio_encoder": ("audio-encoder", "encoder"),
    "audio_decoder": ("audio-decoder", "decoder"),
    "vocoder": ("vocoder", "vocoder"),
}


def tensors(work: Path) -> dict[str, Tensor]:
    """Return every tensor of the checkpoint, by its official name."""
    statistics, found = _load(work, "statistics"), dict[str, Tensor]()
    for component, (stage, name) in MADE_BY.items():
        state = _load(work, stage)[name]
        stream, _, kind = component.partition("_")
        if component == "audio_decoder":
            state = audio.widened(state)
        if kind == "decoder":  # what stands in channels that carry nothing is not looked at
            state["conv_in.weight"][:, CHANNELS[stream] :] = 0
        if kind in ("encoder", "decoder"):
            state |= {f"statistics.{key}": value for key, value in statistics[stream].items()}
        found |= {COMPONENTS[component].variant_for(CONFIG).keys.official(key): value for key, value in state.items()}
    return found


def export(work: Path, file: Path) -> None:
    """Write the checkpoint that the states in ``work`` make."""
    kept = {name: value.to(torch.bfloat16).contiguous() for name, value in tensors(work).items()}
    metadata = {"config": json.dumps(CONFIG), "model_version": VERSION, "license": LICENSE}
    partial = file.with_suffix(".partial")
    save_file(kept, partial, metadata)
    partial.replace(file)
    print(f"{sum(value.numel() for value in kept.values()) / 1e6:.2f} M parameters, {file.stat().st_size / 1e6:.2f} MB")


def adopt(work: Path, checkpoint: str | Path = "miniature") -> None:
    """Fill ``work`` with the states that a finished checkpoint shows, so that its training can go on."""
    models, states = open_models(checkpoint), dict[str, dict[str, Any]]()
    statistics: dict[str, dict[str, Tensor]] = {}
    for component, (stage, name) in MADE_BY.items():
        state = build(models, component, torch.float32).state_dict()
        for key in ("mean", "std"):
            if (value := state.get(f"statistics.{key}")) is not None:
                statistics.setdefault(component.split("_")[0], {})[key] = value.clone()
                state[f"statistics.{key}"] = torch.full_like(value, float(key == "std"))
        if component == "audio_decoder":
            state = audio.narrowed(state)
        states.setdefault(stage, {"step": 0})[name] = state
    states["transformer"]["network"] = states["transformer"]["average"]
    for stage, state in (states | {"statistics": statistics}).items():
        keep(state, work / f"{stage}.pt")


def _load(work: Path, stage: str) -> dict[str, Any]:
    path = work / f"{stage}.pt"
    if not path.exists():
        makes = {"statistics": "scenes"}.get(stage, stage)
        raise FileNotFoundError(f"{path} is missing: run the stage {makes} first, or adopt a finished checkpoint.")
    return torch.load(path, weights_only=True, map_location="cpu")
