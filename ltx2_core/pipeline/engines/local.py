"""The owner of the card where no host manages memory: one stage at a time, built for it and freed afterwards."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ...checkpoint import Models
from ...checkpoint.text_encoder import TextEncoderFiles, build_text_encoder, open_text_encoder
from ...checkpoint.upscaler import UpscalerFile, build_upscaler
from ...checkpoint.versions import VERSIONS
from ...errors import MissingFileError, SettingError
from ...lora import Stack, compare
from ...memory.arrival import arrival_on
from ...memory.link import Plain, link_to
from ...memory.machine import Machine, shares_ram, usable
from ...memory.pinned import PinnedMemory
from ...memory.placement import UNLIMITED, Placement, Room
from ...memory.ram import free_ram, pinnable, ram
from ...memory.ring import Link
from ...memory.store import Store
from ...quantization import check_format
from ...settings import Resources, dtype_of
from ...text import Tokenizer
from ...transformer import SequenceParallel, check_heads
from ..needs.blueprint import FLOAT32, Blueprint
from ..plan import Plan
from ..stage import TEXT_ENCODER, TRANSFORMER, Events, NetworkKey, Networks, Stage
from .gain import describe_gain, describe_sharing
from .hardware import best_device, compute_dtype, current_machine, devices_named
from .planned import PlannedEngine
from .prepare import Prepared, adapters_of, build_modules, folded_stack, joined
from .processes import Processes, joined_processes

_log = logging.getLogger(__name__)

Identity = tuple[NetworkKey[Any], torch.dtype, Stack]  # of a network, with the LoRAs that its weights hold

# What is free changes by the minute; plans that differ by less than this are the same plan.
_ROUNDED_BYTES = 2**26

# A model that fits so many times into what is free of the RAM, in float32, needs no budget on a CPU.
_EASILY = 4


class LocalEngine(PlannedEngine):
    """Builds each network when its stage comes, and brings as much of it to the device as the budget allows.

    It is freed behind the last stage that works with it; the transformer of one that ``keeps`` stays for the next clip,
    in RAM that others are given before their own is found too small.

    On a CPU the budget is what is free of the RAM, at most ``resources.ram``; a model that fits easily has none. With
    ``resources.vram`` weights are copied on it as onto a card of that size.
    """

    def __init__(
        self,
        models: Models,
        resources: Resources = Resources(),
        events: Events = Events(),
        loras: Stack = (),
        keeps: bool = False,
    ):
        """Open nothing yet.

        Args:
            models: the files.
            resources: the device, and how much of it and of RAM may be taken.
            events: whom to tell.
            loras: that every network gets, unless a stage has others.
            keeps: whether more clips of these files follow.

        Raises:
            SettingError: for an unknown format, and for a device that this machine does not have.
            CheckpointError: for a LoRA that changes nothing in these files.
        """
        check_format(resources.format)
        _check_loras(loras, models)
        self.models, self.events, self.loras, self._keeps = models, events, loras, keeps
        self.resources = resources
        asked = "device is" if resources.devices is None else "devices has"
        self._device, *self.other_devices = devices_named(resources.device_names, asked) or (best_device(),)
        self._processes = joined_processes()
        if self._processes is not None:
            self._device = self._own_device(self._processes)
        if self._device.type == "cuda" and self._device.index is not None:
            torch.cuda.set_device(self._device)  # where kernels start that are not of PyTorch, wherever tensors are
        self._dtype = resources.dtype or compute_dtype(self._device, models.width)
        self.pinned = PinnedMemory(resources.ram)
        self._built: dict[Identity, tuple[tuple[nn.Module, ...], Store]] = {}  # what later stages use again

    def with_loras(self, loras: Stack) -> "LocalEngine":
        """Return an owner of the same card that shares what is built, and gives every network other LoRAs."""
        _check_loras(loras, self.models)
        other = copy(self)
        other.loras, other._plan = loras, None
        return other

    def follow(self, plan: Plan) -> None:
        """Place every stage of ``plan`` as it says, and say what several devices, or processes, gain.

        Raises:
            DoesNotFitError: if it does not fit.
        """
        super().follow(plan)
        rooms = [self.room_on(device) for device in (self._device, *self.other_devices)]
        if any(room.budget is None for room in rooms):
            return
        if self._processes is None:
            lines = describe_gain(plan, self.blueprint, rooms, self.load)
        else:
            lines = describe_sharing(plan, self.blueprint, rooms[0], self.load) if self._processes.rank == 0 else []
        for line in lines:
            _log.info("%s", line)

    def _own_device(self, processes: Processes) -> torch.device:
        """The device of this one of several processes, whose heads are checked before anything is loaded."""
        if self.other_devices or self._device.index is not None:
            named = ", ".join(self.resources.device_names)
            raise SettingError(
                f"{named[:80]} names devices, but torchrun started {processes.size} processes, each of which has the "
                "card of its number: leave the devices out."
            )
        if "transformer" in self.models.sources:
            check_heads(self.models.network("transformer").config, processes.size)
        return processes.device(self._device.type)

    def device(self, key: NetworkKey[Any]) -> torch.device:
        """Return where a network runs."""
        return self._device

    def dtype(self, key: NetworkKey[Any]) -> torch.dtype:
        """Return what a network computes in."""
        return self._dtype_of(*key.components)

    def _dtype_of(self, *components: str) -> torch.dtype:
        if self._wide.intersection(components):
            return torch.float32
        return dtype_of(self.resources.precision, *components) or self._dtype

    @cached_property
    def encoder(self) -> TextEncoderFiles:
        """The files of the text encoder.

        Raises:
            MissingFileError: if none were given.
        """
        if self.models.text_encoder is None:
            needed = VERSIONS[self.models.version].text_encoder
            raise MissingFileError(f"No text encoder was given; prompts of {self.models.kind} need {needed}.")
        return open_text_encoder(self.models.text_encoder)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the text encoder."""
        return self.encoder.tokenizer()

    @property
    def blueprint(self) -> Blueprint:
        """The networks as they will be loaded."""
        names = (*self.models.sources, "text_encoder")
        encoder = None if self.models.text_encoder is None else self.encoder
        dtypes = {name: self._dtype_of(name) for name in names}
        tables = not arrival_on(self._device, self._dtype_of("text_encoder")).in_place
        found = Blueprint.of_files(self.models, encoder, dtypes, self.resources.format, tables, self._device)
        return found.among(1 + len(self.other_devices)) if self._processes is None else found.over(self._processes.size)

    @cached_property
    def machine(self) -> Machine:
        """How fast the device is, and the disk that holds the transformer."""
        return self._machine_of(self._device)

    def _machine_of(self, device: torch.device) -> Machine:
        source = self.models.sources.get("transformer")
        return current_machine(device, None if source is None else source.file.path, self._dtype)

    def room_on(self, device: torch.device) -> Room:
        """Return what a stage may take of ``device`` now."""
        free, vram = self._usable(device), self.resources.vram
        if free is None and vram is None:
            return self._room_in_ram()
        budget = vram if free is None else _rounded(free)
        assert budget is not None
        total, available = self._ram
        held = self.pinned.held
        in_ram = device.type != "cpu" and shares_ram(device)  # a CPU that comes here stands for a card
        pinned = 0 if in_ram else _rounded(pinnable(total, available + held))
        most = None if self.resources.ram is None else _rounded(self.resources.ram)
        machine = self.machine if device == self._device else self._machine_of(device)
        return Room(machine, budget, pinned, in_ram, _rounded(free_ram(total, available + held))).within(vram, most)

    def _usable(self, device: torch.device) -> int | None:
        return usable(device) if self._processes is None else self._processes.vram

    @property
    def _ram(self) -> tuple[int, int]:
        """All and available bytes of RAM, for this process."""
        return ram() if self._processes is None else self._processes.ram

    def holds(self, key: NetworkKey[Any]) -> bool:
        """Return whether a network is built already."""
        return any(known == key for known, _, _ in self._built)

    @property
    def spare_ram(self) -> int:
        """Bytes of RAM that are neither taken nor promised nor kept free; of several processes none has any."""
        return 0 if self._processes is not None else self.pinned.spare(*ram(), self.resources.ram)

    def _room_in_ram(self) -> Room:
        """What a CPU may take; a model that is small beside that needs no plan, and stays where it is used."""
        total, available = self._ram
        free = min(free_ram(total, available), total if self.resources.ram is None else self.resources.ram)
        if not total or _EASILY * FLOAT32 * self._parameters <= free:
            return UNLIMITED
        return Room(self.machine, _rounded(free), in_ram=True)

    @cached_property
    def _parameters(self) -> int:
        """How many numbers the files hold, the text encoder included."""
        own = sum(source.parameters for source in self.models.sources.values())
        return own + (0 if self.models.text_encoder is None else self.encoder.parameters)

    @contextmanager
    def bring(self, stage: Stage, placement: Placement | None, loras: Stack) -> Iterator[Networks]:
        """Bring the networks of ``stage``, and leave the device afterwards.

        What no later stage of the plan works with is given up, and built anew if it is asked for all the same.
        """
        self.events.check()
        prepared = {key: self._prepare(key, loras) for key in stage.networks}
        try:
            with self.sharing(stage, placement, prepared, loras) as networks:
                if self._processes is not None and TRANSFORMER in prepared:
                    network = networks[TRANSFORMER]
                    together = SequenceParallel(network, network.config, self._processes)
                    networks = networks.replaced(TRANSFORMER, together)
                yield networks
        finally:
            for key, each in prepared.items():
                each.store.release()
                if not self._stays(stage, key):
                    self._built.pop(self._identity(key, loras), None)

    def _stays(self, stage: Stage, key: NetworkKey[Any]) -> bool:
        """Whether a network is used behind ``stage``, or by the next clip, for which folded LoRAs are not kept."""
        if self._keeps and key == TRANSFORMER and not self.resources.fold_loras:
            return True
        return self._plan is not None and key in self._plan.networks_after(stage.name)

    def _prepare(self, key: NetworkKey[Any], loras: Stack) -> Prepared:
        if (identity := self._identity(key, loras)) not in self._built:
            for other in [each for each in self._built if each[:2] == identity[:2]]:
                del self._built[other]  # which holds other LoRAs
            arrival = arrival_on(self._device, self.dtype(key))
            modules = tuple(self._build(key, identity[2], arrival.deferred))
            link = self.link_to(self._device)
            self._built[identity] = modules, Store(joined(modules), self._device, link=link, arrival=arrival)
        modules, store = self._built[identity]
        if (processes := self._processes) is not None:
            store.exchanges = lambda: processes.exchanges
        return Prepared(modules, store, adapters_of(modules, key, loras, self._device))

    def _identity(self, key: NetworkKey[Any], loras: Stack) -> Identity:
        return key, self.dtype(key), folded_stack(key, loras, self.resources.fold_loras)

    def _build(self, key: NetworkKey[Any], folded: Stack, deferred: Collection[torch.dtype]) -> Sequence[nn.Module]:
        if isinstance(key.source, UpscalerFile):
            return [build_upscaler(key.source, self._dtype, deferred)]
        dtype = self.dtype(key)
        if key == TEXT_ENCODER:
            return [build_text_encoder(self.encoder, dtype, deferred)]
        format, made = self.resources.format if key == TRANSFORMER else None, self.blueprint.give
        return build_modules(self.models, key, dtype, format, folded, self._device, deferred, made)

    def link_to(self, device: torch.device) -> Link:
        """Return what brings weights to ``device``."""
        if device.type == "cpu" and self.resources.vram is not None:
            return Plain(device)
        return link_to(device, self.pinned)


def _check_loras(loras: Stack, models: Models) -> None:
    """Raise CheckpointError or SettingError for a LoRA that changes nothing in these files."""
    for lora, strengths in loras:
        if not lora.is_for_text_encoder:
            compare(lora, models)
            strengths.check_blocks(models.layers)


def _rounded(nbytes: int) -> int:
    return nbytes // _ROUNDED_BYTES * _ROUNDED_BYTES
