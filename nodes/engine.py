"""The engine of the pack: networks belong to ComfyUI's memory management, which says what a stage may take."""

import gc
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

import comfy.model_management as mm
import comfy.model_patcher
import torch
from comfy_api.latest import io
from torch import Tensor, nn

from ..ltx2_core.checkpoint import Models
from ..ltx2_core.checkpoint.belonging import FollowsModel, ForOurNodes, check_own_part
from ..ltx2_core.checkpoint.text_encoder import TextEncoderFiles, build_text_encoder
from ..ltx2_core.checkpoint.upscaler import UpscalerFile, build_upscaler, config_of
from ..ltx2_core.errors import Finding, SettingError
from ..ltx2_core.lora import Lora, LoraAdapter, Stack, Strengths, check_text_lora
from ..ltx2_core.memory.arrival import arrival_on
from ..ltx2_core.memory.link import link_to
from ..ltx2_core.memory.machine import free_of
from ..ltx2_core.memory.placement import Placement, Room
from ..ltx2_core.memory.ram import free_ram, ram
from ..ltx2_core.memory.ring import Link
from ..ltx2_core.memory.store import Store
from ..ltx2_core.pipeline.encode_conditions import ConditionCache
from ..ltx2_core.pipeline.engines import prepare
from ..ltx2_core.pipeline.engines.planned import PlannedEngine
from ..ltx2_core.pipeline.engines.prepare import Prepared
from ..ltx2_core.pipeline.graph.latents import GraphLatent
from ..ltx2_core.pipeline.messages import reading, working
from ..ltx2_core.pipeline.needs.blueprint import Blueprint
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.pipeline.preview import Preview
from ..ltx2_core.pipeline.stage import (
    CONNECTORS,
    TEXT_ENCODER,
    TEXT_FEATURES,
    TRANSFORMER,
    VISION_ENCODER,
    Events,
    NetworkKey,
    Networks,
    Stage,
    need_of,
)
from ..ltx2_core.quantization import CASTS
from ..ltx2_core.sampling import Step
from ..ltx2_core.settings import Resources, dtype_of
from ..ltx2_core.text import Tokenizer
from . import host
from .preview import preview_of

TRANSFORMER_PARTS = {TRANSFORMER.name, CONNECTORS.name, *CONNECTORS.components}
TEXT_PARTS = {TEXT_FEATURES.name, TEXT_ENCODER.name, VISION_ENCODER.name}


def role_of(name: str) -> str:
    """Return what the host calls a network or component of ours, which decides where it runs."""
    return "transformer" if name in TRANSFORMER_PARTS else "text" if name in TEXT_PARTS else "vae"


class LTX2Weights(nn.Module):
    """What a patcher takes for its model. It holds nothing but the store, once there is one."""

    def __init__(self):
        super().__init__()
        self.store: Store | None = None


class StorePatcher(comfy.model_patcher.ModelPatcher):
    """What the host may know and ask of weights that a store moves: size, how much is on the card, shrink.

    ``ceiling`` is how many bytes the running stage wants of the card at most; None is the whole network.
    """

    ceiling: int | None = None

    @property
    def store(self) -> Store | None:
        """The weights, once they are built."""
        return self.model.store

    def model_size(self) -> int:
        if self.store is None:
            return 0
        return self.store.wanted_bytes if self.ceiling is None else min(self.ceiling, self.store.wanted_bytes)

    def loaded_size(self) -> int:
        return self.store.card_bytes if self.store else 0

    def current_loaded_device(self) -> torch.device:
        return self.load_device if self.loaded_size() else self.offload_device

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False) -> int:
        if self.store is None:
            return 0
        before = self.loaded_size()
        budget = max(0, int(before + free_of(self.load_device, extra_memory)))  # that may be negative, or 1e32
        self.store.set_budget(budget if self.ceiling is None else min(budget, self.ceiling))
        return self.loaded_size() - before

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False) -> int:
        if freed := self.store.shrink(int(memory_to_free)) if self.store else 0:
            mm.soft_empty_cache()
        return freed

    def detach(self, unpatch_all=True) -> nn.Module:
        if unpatch_all and self.store:
            self.store.release()
        return self.model


class HostNetwork:
    """One network of a model: built when it is first used, then kept, and known to the host by its patcher.

    Of each kind named in ``ALONE`` only one is kept at a time, because two would not fit into the memory of most
    machines; building the next one gives up the last one.
    """

    ALONE = ("transformer", "text_encoder")
    _known: ClassVar[WeakSet["HostNetwork"]] = WeakSet()

    def __init__(
        self, name: str, device: torch.device, dtype: torch.dtype, make: Callable[..., list[nn.Module]], origin: str
    ):
        """Remember how to ``make`` its modules, called with the dtypes that stay as they are stored; ``name`` and
        ``origin``, the files, are for the log."""
        self.name, self.device, self.dtype = name, device, dtype
        self._make, self.origin = make, origin
        self._modules: tuple[nn.Module, ...] = ()
        self.patcher = StorePatcher(LTX2Weights(), device, torch.device("cpu"))
        self._known.add(self)

    def built(self) -> Prepared:
        """Return the network with its store, built now if it has not been before."""
        weights = self.patcher.model
        if weights.store is None:
            if self.name in self.ALONE:
                self._forget_others()
            arrival = arrival_on(self.device, self.dtype)
            self._modules = tuple(self._make(arrival.deferred))
            network = prepare.joined(self._modules)
            lists = (each for each in network.modules() if isinstance(each, nn.ModuleList))
            # Samplers ask between the blocks of a transformer, which hooks would keep out of CUDA graphs.
            for block in itertools.chain.from_iterable(() if self.name == TRANSFORMER.name else lists):
                block.register_forward_pre_hook(lambda *_: mm.throw_exception_if_processing_interrupted())
            link = link_to(self.device, host.PINNED)
            weights.store = Store(network, self.device, link=link, arrival=arrival)
            dtype = str(self.dtype).removeprefix("torch.")
            size = weights.store.wanted_bytes / 1e6
            host.log.info("Built %s of %s: %s on %s, %.1f MB", self.name, self.origin, dtype, self.device, size)
        return Prepared(self._modules, weights.store)

    @classmethod
    def copied_bytes(cls) -> int:
        """Return the bytes of copies that networks on a CPU hold."""
        return sum(store.copied_bytes for store in cls._on_cpu().values())

    @classmethod
    def leave_ram(cls, nbytes: int, kept: Collection["HostNetwork"]) -> None:
        """Let the copies of all networks on a CPU but ``kept`` go, if less than ``nbytes`` are free beside them."""
        if nbytes > free_ram(*ram()):
            for other, store in cls._on_cpu().items():
                if other not in kept:
                    store.release()

    @classmethod
    def _on_cpu(cls) -> dict["HostNetwork", Store]:
        known = {each: each.patcher.store for each in list(cls._known) if mm.is_device_cpu(each.device)}
        return {each: store for each, store in known.items() if store is not None}

    def _forget_others(self) -> None:
        others = [each for each in self._known if each.name == self.name and each.patcher.model.store is not None]
        for other in others:
            other.patcher.model.store.release()
            other.patcher.model.store, other._modules = None, ()
        if others:
            gc.collect()  # networks are cyclic, and forty gigabytes should not wait for their turn


class _OfOneNetwork:
    network: HostNetwork

    def __str__(self) -> str:
        return f"{self.network.name} ({self.network.origin})"

    @property
    def patcher(self) -> StorePatcher:
        """By this the host's cache recognises a model."""
        return self.network.patcher


class LoadedGemma(_OfOneNetwork):
    """LTX2AV_GEMMA: the opened files of a text encoder, and its network and tokenizer once they have been needed."""

    def __init__(self, files: TextEncoderFiles, precision: str):
        self.files = files
        self.loras: Stack = ()
        self._base: LoadedGemma | None = None  # which stays open as long as this does
        self.dtype = dtype_of(precision, "text_encoder") or host.dtype_for("text", files.parameters)
        device = host.device_for("text")
        make = partial(build_text_encoder, files, self.dtype)
        self.network = HostNetwork("text_encoder", device, self.dtype, lambda kept: [make(kept)], files.path.name)

    def with_lora(self, lora: Lora, strength: float) -> "LoadedGemma":
        """Return the same files and network with this LoRA; CheckpointError if it changes nothing in them."""
        host.log.info("%s", check_text_lora(lora, self.files))
        other = copy(self)
        other.loras, other._base = ((lora, Strengths(strength)),), self
        return other

    def of(self, models: Models) -> "LoadedGemma":
        """Return this one; the blueprint refuses one that belongs to another model."""
        return self

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer among the files."""
        return self.files.tokenizer()


class LoadedUpscaler(_OfOneNetwork, ForOurNodes):
    """LATENT_UPSCALE_MODEL: an opened upscaler, and its network once it has been needed."""

    def __init__(self, file: UpscalerFile):
        self.config, self._file = file.config, file
        self.dtype, self.device = host.dtype_for("vae", file.nbytes // 2), host.device_for("vae")
        make = partial(build_upscaler, file, self.dtype)
        self.network = HostNetwork("upscaler", self.device, self.dtype, lambda kept: [make(kept)], file.file.path.name)

    def of(self, models: Models) -> "LoadedUpscaler":
        """Return this one; SettingError if it is that of the miniature, and the model is not."""
        check_own_part(self._file.file.path, "upscaler", models)
        return self


class ForeignUpscaler:
    """LATENT_UPSCALE_MODEL of the host's own loader: its network (0.20), or a patcher of it (0.33)."""

    def __init__(self, value: nn.Module | comfy.model_patcher.ModelPatcher):
        self.patcher = host.patcher_of(value)
        weights = self.patcher.model.state_dict()
        config = config_of({name: tuple(weight.shape) for name, weight in weights.items()})
        if config is None:
            raise SettingError("This is not a latent upscaler of LTX-2: connect LTX-2 Load Upscaler.")
        self.config, self.device = config, self.patcher.load_device
        self.dtype = next(self.patcher.model.parameters()).dtype

    def __call__(self, latent: Tensor) -> Tensor:
        """Enlarge (B, C, F, H, W), before normalisation, in the network's own dtype."""
        return self.patcher.model(latent.to(self.device, self.dtype))


AnyUpscaler = LoadedUpscaler | ForeignUpscaler
GemmaLike: TypeAlias = LoadedGemma | FollowsModel
UpscalerLike: TypeAlias = LoadedUpscaler | FollowsModel | nn.Module | comfy.model_patcher.ModelPatcher


def upscaler_of(value: UpscalerLike, models: Models) -> AnyUpscaler:
    """Return what a LATENT_UPSCALE_MODEL socket carries, ours or the host's."""
    return value.of(models) if isinstance(value, LoadedUpscaler | FollowsModel) else ForeignUpscaler(value)


class LoadedModel:
    """LTX2AV_MODEL: the opened files of a model, and its networks as far as they have been needed."""

    def __init__(
        self,
        models: Models,
        precision: str,
        how: Resources = Resources(),
        other_devices: Sequence[torch.device] = (),
    ):
        """Open nothing yet; ``precision`` is what networks compute in, or a format of the transformer's weights, and
        ``other_devices`` share the work of the transformer with the host's own; ``how`` says how that computes."""
        self.models, self.how = models, how
        self.other_devices = tuple(other_devices)
        self.loras: Stack = ()
        self.format = precision if precision in CASTS else None
        self.precision = "auto" if self.format else precision
        self.dtypes = {
            name: dtype_of(precision, name) or host.dtype_for(role_of(name), source.parameters)
            for name, source in models.sources.items()
        }
        self._networks: dict[tuple[str, torch.dtype, Stack], HostNetwork] = {}
        self._folded: dict[tuple[str, torch.dtype, Stack], HostNetwork] = {}  # with LoRAs in them, of this value alone
        self._adapters: WeakKeyDictionary[nn.Module, tuple[LoraAdapter, ...]] = WeakKeyDictionary()
        self.conditions = ConditionCache()

    def __str__(self) -> str:
        return str(self.models)

    def with_loras(self, *loras: tuple[Lora, Strengths]) -> "LoadedModel":
        """Return the same files and networks with these LoRAs beside those that this one has."""
        other = copy(self)
        other.loras, other._adapters, other._folded = (*self.loras, *loras), WeakKeyDictionary(), {}
        return other

    @property
    def resources(self) -> Resources:
        """How it computes, as the command line is told; ``devices`` are those that help the host's own."""
        kind, others = host.device_for("transformer").type, ",".join(map(str, self.other_devices))
        return replace(self.how, device=kind, devices=others or None, precision=self.precision, format=self.format)

    def blueprint(self, gemma: LoadedGemma | None = None, wide: Collection[str] = ()) -> Blueprint:
        """Return the networks as shapes, those of ``gemma`` included; ``wide`` components compute in float32."""
        dtypes = self.dtypes | dict.fromkeys(wide, torch.float32)
        if gemma is not None:
            dtypes |= dict.fromkeys(("text_encoder", "text_features"), gemma.dtype)
        tables = gemma is None or not arrival_on(gemma.network.device, gemma.dtype).in_place
        files, device = None if gemma is None else gemma.files, host.device_for("transformer")
        return Blueprint.of_files(self.models, files, dtypes, self.format, tables, device)

    def network(
        self, key: NetworkKey[Any], dtype: torch.dtype | None = None, loras: Stack | None = None
    ) -> HostNetwork:
        """Return a network of the model, not built yet.

        Args:
            key: of the network.
            dtype: in place of the precision that was chosen.
            loras: in place of those of the model, where they are folded into weights.
        """
        sources = [self.models.source(name) for name in key.components]
        dtype = dtype or self.dtypes[key.components[0]]
        folded = prepare.folded_stack(key, self.loras if loras is None else loras, self.how.fold_loras)
        known = self._folded if folded else self._networks
        if (key.name, dtype, folded) not in known:
            format = self.format if key == TRANSFORMER else None
            device = host.device_for(role_of(key.name))
            make = partial(prepare.build_modules, self.models, key, dtype, format, folded, device)
            cast = f", cast to {format}" if format else ""
            origin = f"LTX-{self.models.version} ({sources[0].file.path.name}{cast})"
            known[key.name, dtype, folded] = HostNetwork(key.name, device, dtype, make, origin)
        return known[key.name, dtype, folded]

    def adapters(self, key: NetworkKey[Any], prepared: Prepared, device: torch.device) -> tuple[LoraAdapter, ...]:
        """Return the LoRAs on a network as it is built now."""
        first = prepared.modules[0]
        if first not in self._adapters:
            self._adapters[first] = prepare.adapters_of(prepared.modules, key, self.loras, device)
        return self._adapters[first]

    @property
    def patcher(self) -> StorePatcher | None:
        """By this the host's cache recognises a model."""
        return self.network(TRANSFORMER).patcher if "transformer" in self.models.sources else None


class HostEngine(PlannedEngine):
    """The owner of the card is ComfyUI: every stage asks it for room, and takes no more than it grants."""

    pinned = host.PINNED

    def __init__(
        self,
        model: LoadedModel,
        limits: Plan | None = None,
        *,
        gemma: GemmaLike | None = None,
        preview: Preview | None = None,
    ):
        """Prepare for one node, which shows what is found; ``limits`` are from LTX-2 Memory Plan."""
        self.model, self.models, self.limits, self.preview = model, model.models, limits, preview
        self.resources, self.other_devices = model.how, model.other_devices
        self.gemma: LoadedGemma | None = None if gemma is None else gemma.of(model.models)
        self.loras: Stack = (*model.loras, *(self.gemma.loras if self.gemma else ()))
        self.findings: list[Finding] = []
        self.conditions = model.conditions
        self._bars: dict[str, Callable[..., None]] = {}
        on_step = preview.on_step if preview is not None else Events.on_step
        stop = mm.throw_exception_if_processing_interrupted
        self.events = Events(self._on_progress, self._on_finding, on_step, on_remark=host.show_text, check=stop)

    @property
    def last_step(self) -> Step | None:
        """The last step of the sampler, of which the preview is told."""
        return None if self.preview is None else self.preview.last_step

    @property
    def encoder(self) -> TextEncoderFiles:
        """The files of the text encoder."""
        return self._gemma.files

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the text encoder."""
        return self._gemma.tokenizer

    @property
    def _gemma(self) -> LoadedGemma:
        if self.gemma is None:
            raise SettingError("This needs a text encoder: connect LTX-2 Load Gemma.")
        return self.gemma

    @property
    def blueprint(self) -> Blueprint:
        """The networks as shapes."""
        return self.model.blueprint(self.gemma, self._wide).among(1 + len(self.other_devices))

    def device(self, key: NetworkKey[Any]) -> torch.device:
        """Return where a network runs."""
        return source.device if isinstance(source := key.source, AnyUpscaler) else host.device_for(role_of(key.name))

    def dtype(self, key: NetworkKey[Any]) -> torch.dtype:
        """Return what a network computes in; the text projection does as the text encoder."""
        if isinstance(key.source, AnyUpscaler):
            return key.source.dtype
        if self._wide.intersection(key.components):
            return torch.float32
        if self.gemma is not None and key in (TEXT_ENCODER, TEXT_FEATURES):
            return self.gemma.dtype
        return self.model.dtypes[key.components[0]]

    def room_on(self, device: torch.device) -> Room:
        """Return what the host grants a stage of ``device``, at most what the limits say."""
        return host.room(device, self.limits, HostNetwork.copied_bytes())

    def link_to(self, device: torch.device) -> Link:
        """Return what brings weights to ``device``; the host does not manage the other ones, which are left behind."""
        return link_to(device, self.pinned)

    def leave_cards(self) -> None:
        """Let all that ComfyUI has on its cards leave them, for other processes."""
        mm.unload_all_models()
        mm.soft_empty_cache()

    def holds(self, key: NetworkKey[Any]) -> bool:
        """Return whether a network is built already."""
        return self._network(key, self.loras).patcher.store is not None

    @property
    def spare_ram(self) -> int:
        """Bytes of RAM that are neither taken nor promised nor kept free."""
        return self.pinned.spare(*ram(), None if self.limits is None else self.limits.room.ram)

    def placement(self, stage: Stage) -> Placement | None:
        """Return where the weights of a stage will be; None for those that ComfyUI places itself."""
        return None if isinstance(stage.networks[0].source, ForeignUpscaler) else super().placement(stage)

    @contextmanager
    def bring(self, stage: Stage, placement: Placement | None, loras: Stack) -> Iterator[Networks]:
        """Ask the host for room, and bring the networks of ``stage``, and those of the preview, there."""
        work = (need_of(stage, self.blueprint) if placement is None else placement.need).work_bytes
        if isinstance(source := stage.networks[0].source, ForeignUpscaler):
            mm.load_models_gpu([source.patcher], memory_required=work)
            yield Networks({stage.networks[0]: source})
            return
        preview = self.preview if stage.networks[0] == TRANSFORMER else None
        keys = [*stage.networks, *(preview.networks(self) if preview else ())]
        networks = {key: self._network(key, loras) for key in keys}
        prepared = {key: self._prepared(key, networks[key], loras) for key in keys}
        make_room = partial(self._make_room, list(networks.values()), work)
        with self.sharing(stage, placement, prepared, loras, make_room) as shared:
            self._tell(working(stage.name))
            if preview is not None:
                preview.start(shared, stage.name)
            yield shared

    def _network(self, key: NetworkKey[Any], loras: Stack) -> HostNetwork:
        if isinstance(key.source, LoadedUpscaler):
            return key.source.network
        if key == TEXT_ENCODER:
            return self._gemma.network
        return self.model.network(key, self.dtype(key), loras)

    def _prepared(self, key: NetworkKey[Any], network: HostNetwork, loras: Stack) -> Prepared:
        if network.patcher.store is None:
            self._tell(reading(network.name))
        built = network.built()
        if key != TEXT_ENCODER and loras == self.loras:
            adapters = self.model.adapters(key, built, network.device)
        else:
            adapters = prepare.adapters_of(built.modules, key, loras, network.device)
        return Prepared(built.modules, built.store, adapters)

    def _make_room(self, networks: list[HostNetwork], work: int, placement: Placement | None) -> None:
        first, *others = networks
        if mm.is_device_cpu(first.device) and placement is not None:
            HostNetwork.leave_ram(placement.device_bytes, networks)
        beside = sum(network.patcher.model_size() for network in others)
        first.patcher.ceiling = None if placement is None else placement.weight_budget - beside
        mm.load_models_gpu([network.patcher for network in networks], memory_required=work)

    def _on_progress(self, stage: str, done: int, total: int) -> None:
        if self.preview is not None and stage in ("sampling", "refining"):
            return  # which tells it with each step
        self._tell(working(stage, done, total))
        if stage not in self._bars:
            self._bars[stage] = host.progress(total)
        self._bars[stage](done, total)

    def _on_finding(self, finding: Finding) -> None:
        self.findings.append(finding)
        host.show_text(str(finding))

    def _tell(self, status: str) -> None:
        """Show what is done just now: below the moving preview, where there is one, else as a text of the node."""
        if self.preview is None:
            host.show_status(status)
        else:
            self.preview.screen.show_status(status)


def sampling_engine(node: type[io.ComfyNode], model: LoadedModel, latent: GraphLatent, plan: Plan | None) -> HostEngine:
    """Return the engine of a node that samples, with its preview."""
    return HostEngine(model, plan, preview=preview_of(node, latent, model.models))
