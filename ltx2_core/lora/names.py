"""How trainers call the layers of LTX-2 (see README.md, "Names")."""

import re
from collections.abc import Mapping

from ..checkpoint.keys import Keys
from ..checkpoint.keys.gemma import GEMMA
from ..checkpoint.keys.layouts import diffusers_name, unwrapped
from ..checkpoint.keys.text import AUDIO_CONNECTOR, TEXT_FEATURES, VIDEO_CONNECTOR
from ..checkpoint.keys.transformer import TRANSFORMER

STREAMS = ("video", "audio", "audio_to_video", "video_to_audio", "text")

# What may stand in front of a layer's name, one after the other: of PEFT, ComfyUI, diffusers, kohya, musubi, LyCORIS,
# ltx-core, DiffSynth, distillers; and of PyTorch, where a trainer saves a network that processes share.
_PREFIXES = (
    "base_model.model.", "diffusion_model.", "model.", "transformer.", "connectors.", "lora_", "unet_", "lycoris_",
    "velocity_model.", "pipe.", "dit.", "generator.", "student.", "net.", "module.", "_forward_module.",
)  # fmt: skip

# What may stand in front of a layer of Gemma.
_TEXT_PREFIXES = (
    "base_model.model.", "text_encoders.", "text_encoder.", "lora_te_", "lora_te1_", "lora_", "lycoris_",
    "gemma3_12b.", "gemma4.", "gemma.", "transformer.", "language_model.", "text_model.", "model.",
)  # fmt: skip

# The global gates are named by the stream that they let something into.
_CROSS = {"video.gate_cross.": "audio_to_video", "audio.gate_cross.": "video_to_audio"}


def _loose(name: str) -> str:
    """Kohya's trainers write "_" for "."; so we see no difference."""
    return _dotted(unwrapped(name))


def _dotted(name: str) -> str:
    return name.replace("_", ".")


def _loosened(rows: Mapping[str, str | None]) -> Keys:
    return Keys({_loose(each): ours for name, ours in rows.items() for each in (name, diffusers_name(name))})


# Of the components that a LoRA may change.
TABLES = {
    "transformer": _loosened(TRANSFORMER.rows),
    "video_connector": _loosened(VIDEO_CONNECTOR.rows),
    "audio_connector": _loosened(AUDIO_CONNECTOR.rows),
    "text_features": _loosened(TEXT_FEATURES.rows),
}


TEXT_TABLES = {"text_encoder": _loosened(GEMMA.rows)}


def find_parameter(name: str) -> tuple[str, str] | None:
    """Return the component and our name of the tensor that a trainer calls ``name``; None if LTX-2 has none such."""
    return _find(_loose(name), TABLES, _PREFIXES)


def find_text_parameter(name: str) -> tuple[str, str] | None:
    """Return "text_encoder" and our name of the tensor of Gemma that a trainer calls ``name``; None if it is none."""
    return _find(_loose(name), TEXT_TABLES, _TEXT_PREFIXES)


def _find(name: str, tables: Mapping[str, Keys], prefixes: tuple[str, ...]) -> tuple[str, str] | None:
    while True:
        for component, keys in tables.items():
            if ours := keys.ours(name, ""):
                return component, ours
        prefix = next((each for each in map(_dotted, prefixes) if name.startswith(each)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix)


def stream_of(component: str, name: str) -> str:
    """Return which of STREAMS our tensor ``name`` belongs to."""
    if component != "transformer":
        return "text"
    found = re.match(r"(?:blocks\.\d+\.)?(\w+)\.", name)
    assert found is not None, name
    return next((stream for gate, stream in _CROSS.items() if name.startswith(gate)), found[1])


def block_of(component: str, name: str) -> int | None:
    """Return the number of the transformer's block that our tensor ``name`` is in."""
    found = re.match(r"blocks\.(\d+)\.", name) if component == "transformer" else None
    return int(found[1]) if found else None
