"""What goes through our sockets: the types, and the Python value that each one carries."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from comfy_api.latest import io
from torch import Tensor, nn

from ..ltx2_core.checkpoint import Models, build
from ..ltx2_core.checkpoint.text_encoder import TextEncoderFiles, build_text_encoder
from ..ltx2_core.geometry import ClipShape
from ..ltx2_core.quantization import CASTS
from ..ltx2_core.sampling import AnyGuidance
from ..ltx2_core.text import GemmaConfig, Tokenizer
from . import host

Model = io.Custom("LTX2AV_MODEL")
Gemma = io.Custom("LTX2AV_GEMMA")
Mel = io.Custom("LTX2AV_MEL")
GuidanceType = io.Custom("LTX2AV_GUIDANCE")

# What networks compute in. A format may stand in place of one: the transformer's weights have it, all else is as auto.
PRECISIONS = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

# Where a component runs, in the host's words.
ROLES = {"transformer": "transformer", "video_connector": "transformer", "audio_connector": "transformer",
         "text_features": "text"}  # fmt: skip


class LoadedModel:
    """LTX2AV_MODEL: the opened files of a model, and its networks as far as they have been needed."""

    def __init__(self, models: Models, precision: str):
        self.models = models
        self._format = precision if precision in CASTS else None
        self._dtypes = {
            name: PRECISIONS.get(precision) or host.dtype_for(ROLES.get(name, "vae"), source.parameters)
            for name, source in models.sources.items()
        }
        self._networks: dict[tuple[str, torch.dtype], host.Network] = {}

    def network(self, name: str, dtype: torch.dtype | None = None) -> host.Network:
        """Component ``name``, in the precision that was chosen unless ``dtype`` is given; not built yet."""
        source = self.models.source(name)
        dtype = dtype or self._dtypes[name]
        if (name, dtype) not in self._networks:
            format = self._format if name == "transformer" else None
            make = partial(build, self.models, name, dtype, format=format)
            origin = f"LTX-{self.models.version} ({source.file.path.name}{f', cast to {format}' if format else ''})"
            self._networks[name, dtype] = host.Network(name, ROLES.get(name, "vae"), dtype, make, origin)
        return self._networks[name, dtype]

    @property
    def patcher(self) -> host.StorePatcher | None:
        """By this the host's cache recognises a model."""
        return self.network("transformer").patcher if "transformer" in self.models.sources else None


class LoadedGemma:
    """LTX2AV_GEMMA: the opened files of a text encoder, and its network and tokenizer once they have been needed."""

    def __init__(self, files: TextEncoderFiles, precision: str):
        self.files = files
        parameters = sum(shard.entries[key].parameters for shard, key in files.names.values())
        dtype = PRECISIONS[precision] or host.dtype_for("text", parameters)
        make: Callable[[], nn.Module] = partial(build_text_encoder, files, dtype)
        self.network = host.Network("text_encoder", "text", dtype, make, files.path.name)

    @property
    def config(self) -> GemmaConfig:
        return self.files.config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return self.files.tokenizer()

    @property
    def patcher(self) -> host.StorePatcher:
        """By this the host's cache recognises a model."""
        return self.network.patcher


@dataclass(frozen=True)
class StreamGuidance:
    """LTX2AV_GUIDANCE: how each stream is guided."""

    video: AnyGuidance
    audio: AnyGuidance


@dataclass(frozen=True)
class MelSpectrogram:
    """LTX2AV_MEL: what the audio decoder says about the sound, and the clip that it belongs to."""

    mel: Tensor  # (B, 2, T, 64)
    clip: ClipShape | None  # None where the latent had no picture
