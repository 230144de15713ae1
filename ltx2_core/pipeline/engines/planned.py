"""What all owners of a card have in common: they follow a plan, tell what ran out, and evaluate LoRA schedules."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from functools import cached_property
from typing import Any, TypeVar

import torch

from ...checkpoint.components import COMPONENTS
from ...disk_cache import cache_folder
from ...disk_cache.mapped import FileSpan
from ...errors import memory_told
from ...lora import LoraAdapter, Stack
from ...memory.machine import forget_machine
from ...memory.pinned import PinnedMemory
from ...memory.placement import Placement, Room
from ...transformer import attending_with, compiling, describe_missing, note_step
from ..engine import Engine
from ..messages import working
from ..plan import Plan, place_stage
from ..precision import exact_float32
from ..stage import TRANSFORMER, NetworkKey, Networks, Stage, StageT, need_of
from .devices import make_twins, shared_by
from .pace import Pace
from .prefetch import reading_ahead
from .prepare import Prepared, RunLoad, ready

_log = logging.getLogger(__name__)

EngineT = TypeVar("EngineT", bound="PlannedEngine")


class PlannedEngine(Engine, ABC):
    """An engine that places every stage as it was planned, or as it fits when it comes."""

    pinned: PinnedMemory  # holds weights in RAM
    other_devices: Sequence[torch.device] = ()  # help the first one
    _pace: Pace | None = None  # of a stage that asks its network again and again
    _plan: Plan | None = None
    _in_use: Sequence[LoraAdapter] = ()
    _wide: frozenset[str] = frozenset()  # components that compute in float32, whatever was chosen

    @cached_property
    def _read_ahead(self) -> set[FileSpan]:
        """What was read for stages that come later."""
        return set()

    @property
    def load(self) -> RunLoad:
        """What the LoRAs add to the needs of stages."""
        return RunLoad(self.loras, self.device(TRANSFORMER), self.blueprint, self.resources)

    @abstractmethod
    def bring(self, stage: Stage, placement: Placement | None, loras: Stack) -> AbstractContextManager[Networks]:
        """Bring the networks of ``stage`` to where they run, with ``loras``, as a context."""

    def room(self, key: NetworkKey[Any] = TRANSFORMER) -> Room:
        """Return what a stage that streams this network may take now."""
        return self.room_on(self.device(key))

    def clear_ram(self, nbytes: int) -> None:
        """Let weights that rest in RAM make room for ``nbytes`` of frames."""
        self.pinned.leave(nbytes)

    def follow(self, plan: Plan) -> None:
        """Place every stage of ``plan`` as it says.

        Raises:
            DoesNotFitError: if it does not fit.
        """
        plan.check()
        self._plan = plan

    def fit(self, stage: StageT) -> StageT:
        """Return ``stage`` as it was planned, or as it fits now."""
        self._check_files(stage)
        planned = None if self._plan is None else self._plan.stage(stage)
        return stage.fit(self.blueprint, self.room(stage.networks[0]), self.load) if planned is None else planned

    def in_float32(self: EngineT, keys: Iterable[NetworkKey[Any]]) -> EngineT:
        """Return the same engine with these networks in float32; stages are placed as they fit now."""
        other = copy(self)
        other._plan = None
        other._wide = self._wide.union(*(key.components for key in keys))
        return other

    def placement(self, stage: Stage) -> Placement | None:
        """Return where the weights of ``stage`` will be; None where they are used as they lie.

        Raises:
            CheckpointError: if the files of the model lack a network of the stage.
            DoesNotFitError: if the stage was not planned and does not fit.
        """
        self._check_files(stage)
        if self._plan is not None and (planned := self._plan.placement(stage.name)) is not None:
            return planned
        return place_stage(stage, self.blueprint, self.room(stage.networks[0]), self.load)

    def _check_files(self, stage: Stage) -> None:
        """CheckpointError where the files lack a network of ``stage``, which is measured before it is built."""
        for name in (name for key in stage.networks for name in key.components if name in COMPONENTS):
            self.models.source(name)

    @contextmanager
    def use(self, stage: Stage, loras: Stack | None = None) -> Iterator[Networks]:
        """Yield the networks of ``stage``, ready to run; those in float32 compute in it, not in TF32.

        Meanwhile those of the next stages are read from disk as far as RAM is free (``prefetch.py``). Arguments and
        errors as for ``Engine.use``, and OutOfMemoryError or OutOfRamError if memory runs out all the same.
        """
        placement = self.placement(stage)
        if placement is not None and placement.need.runs > 1 and not stage.describe_tiles():
            self._pace = Pace(stage.name, placement.run * placement.need.walks)
        try:
            with (
                memory_told(f" while {working(stage.name)}"),
                exact_float32(),
                attending_with(self.resources.attention),
                compiling(self.resources.torch_compile and TRANSFORMER in stage.networks),
                self.bring(stage, placement, self.loras if loras is None else loras) as networks,
                self.graphing(stage, placement, networks),
                reading_ahead(self, stage, self._plan, placement, self._read_ahead),
            ):
                self._say_how_it_attends(stage)
                yield networks
            self._report_pace(stage)
        finally:
            self._in_use, self._pace = (), None

    @contextmanager
    def sharing(
        self,
        stage: Stage,
        placement: Placement | None,
        networks: Mapping[NetworkKey[Any], Prepared],
        loras: Stack,
        make_room: Callable[[Placement | None], None] | None = None,
    ) -> Iterator[Networks]:
        """Yield the networks of ``stage`` ready to run with ``loras``, the shared one on all devices; see ``ready``."""
        twins = make_twins(stage, networks, self, loras)
        prepared = *networks.values(), *(twin.prepared for twin in twins)
        self._in_use = [adapter for each in prepared for adapter in each.adapters]
        with ready(networks, placement, make_room) as own, shared_by(twins, own, self, placement) as shared:
            yield shared

    def graphing(self, stage: Stage, placement: Placement | None, networks: Networks) -> AbstractContextManager[object]:
        """Let steps of ``stage`` be CUDA graphs, as a context, if it was placed so; the log says why not."""
        if not self.resources.cuda_graphs or TRANSFORMER not in stage.networks:
            return nullcontext()
        need = need_of(stage, self.blueprint) if placement is None else placement.need
        _log.info("%s", self.load.describe_graphs(stage, need, self.room().machine))
        return networks[TRANSFORMER].graphed() if need.graph_bytes else nullcontext()

    def _say_how_it_attends(self, stage: Stage) -> None:
        if TRANSFORMER in stage.networks:
            device, dtype = self.device(TRANSFORMER), self.dtype(TRANSFORMER)
            if missing := describe_missing(self.resources.attention, device, dtype):
                self.events.on_remark(missing)

    def _report_pace(self, stage: Stage) -> None:
        if self._pace is not None and (finding := self._pace.finding()) is not None:
            self.forget_rates(stage.networks[0])
            self.events.on_finding(finding)

    def forget_rates(self, key: NetworkKey[Any]) -> None:
        """Let the machine that runs a network be measured again for the next plan."""
        forget_machine(self.device(key), cache_folder())

    def set_moment(self, sigma: float, step: int) -> None:
        """Set the sigma and step at which LoRA schedules are evaluated, and whether attention may be sparse."""
        note_step(sigma, step)
        if self._pace is not None:
            self._pace.note()
        for adapter in self._in_use:
            adapter.set_moment(sigma, step)
