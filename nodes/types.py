"""What goes through our sockets: the types, and the Python value that each one carries."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor, nn

from ..ltx2_core.checkpoint import Models, build
from ..ltx2_core.checkpoint.models import Source
from ..ltx2_core.checkpoint.text_encoder import TextEncoderFiles, build_text_encoder
from ..ltx2_core.checkpoint.upscaler import UpscalerFile, build_upscaler, config_of
from ..ltx2_core.geometry import ClipShape
from ..ltx2_core.lora import Lora, Stack, Strengths
from ..ltx2_core.lora.stack import part
from ..ltx2_core.memory.plan import Plan
from ..ltx2_core.memory.stages import Blueprint, Need
from ..ltx2_core.quantization import CASTS
from ..ltx2_core.sampling import AnyGuidance
from ..ltx2_core.text import GemmaConfig, Tokenizer
from ..ltx2_core.upscaler import LatentUpscaler
from . import host

Model = io.Custom("LTX2AV_MODEL")
Gemma = io.Custom("LTX2AV_GEMMA")
Mel = io.Custom("LTX2AV_MEL")
GuidanceType = io.Custom("LTX2AV_GUIDANCE")
PlanType = io.Custom("LTX2AV_PLAN")
Conditions = io.Custom("LTX2AV_CONDITIONS")  # a tuple of ltx2_core.conditioning.given.Given
Windows = io.Custom("LTX2AV_WINDOWS")


def plan_input() -> io.Input:
    """For a plan that limits what a node may take."""
    return PlanType.Input(
        "plan", optional=True, tooltip="From LTX-2 Memory Plan: takes no more of the card and of RAM than it allows."
    )


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
        self.loras: Stack = ()
        self._plain: dict[tuple[str, torch.dtype], host.Network] = {}
        self._networks: dict[tuple[str, torch.dtype], host.Network] = {}
        self._blueprints: dict[TextEncoderFiles | None, Blueprint] = {}

    def with_loras(self, *loras: tuple[Lora, Strengths]) -> "LoadedModel":
        """The same files and networks, with these LoRAs beside those that this one has."""
        other = copy(self)
        other.loras, other._networks = (*self.loras, *loras), {}
        return other

    def blueprint(self, gemma: "LoadedGemma | None" = None) -> Blueprint:
        """The networks as shapes, those of ``gemma`` included: what plans are made from."""
        files = None if gemma is None else gemma.files
        if files not in self._blueprints:
            text = {} if gemma is None else dict.fromkeys(("text_encoder", "text_features"), gemma.network.dtype)
            self._blueprints[files] = Blueprint.of_files(self.models, files, self._dtypes | text, self._format)
        return self._blueprints[files]

    def network(self, name: str, dtype: torch.dtype | None = None) -> host.Network:
        """Component ``name``, in the precision that was chosen unless ``dtype`` is given; not built yet."""
        source = self.models.source(name)
        dtype = dtype or self._dtypes[name]
        if (name, dtype) not in self._networks:
            if (name, dtype) not in self._plain:
                self._plain[name, dtype] = self._new(name, source, dtype)
            self._networks[name, dtype] = self._plain[name, dtype].with_loras(part(self.loras, name))
        return self._networks[name, dtype]

    def _new(self, name: str, source: Source, dtype: torch.dtype) -> host.Network:
        format = self._format if name == "transformer" else None
        make = partial(build, self.models, name, dtype, format=format)
        origin = f"LTX-{self.models.version} ({source.file.path.name}{f', cast to {format}' if format else ''})"
        return host.Network(name, ROLES.get(name, "vae"), dtype, make, origin)

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


class LoadedUpscaler:
    """LATENT_UPSCALE_MODEL: an opened upscaler, and its network once it has been needed."""

    def __init__(self, file: UpscalerFile):
        self.config = file.config
        dtype = host.dtype_for("vae", file.nbytes // 2)
        self.network = host.Network("upscaler", "vae", dtype, partial(build_upscaler, file, dtype), file.file.path.name)
        self.dtype, self.device = dtype, self.network.device

    @property
    def patcher(self) -> host.StorePatcher:
        """By this the host's cache recognises a model."""
        return self.network.patcher

    @contextmanager
    def use(self, need: Need, plan: Plan | None) -> Iterator[LatentUpscaler]:
        """The network, ready to run."""
        with host.use(self.network, need=need, plan=plan) as (network,):
            yield network


class HostUpscaler:
    """LATENT_UPSCALE_MODEL of the host's own loader: its network (0.20), or a patcher of it (0.33)."""

    def __init__(self, value: Any):
        self.patcher = host.patcher_of(value)
        weights = self.patcher.model.state_dict()
        config = config_of({name: tuple(weight.shape) for name, weight in weights.items()})
        if config is None:
            raise ValueError("This is not a latent upscaler of LTX-2: connect LTX-2 Load Upscaler.")
        self.config, self.device = config, self.patcher.load_device
        self.dtype = next(self.patcher.model.parameters()).dtype

    @contextmanager
    def use(self, need: Need, plan: Plan | None) -> Iterator[LatentUpscaler]:
        """The network, ready to run; how much it takes of the card is the host's affair."""
        host.load(self.patcher, need.scratch)
        yield self

    def __call__(self, latent: Tensor) -> Tensor:
        return self.patcher.model(latent.to(self.device, self.dtype))


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
