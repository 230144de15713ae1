"""What an engine is: who owns the card, and brings to it what a stage works with."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch

from ..checkpoint import Models
from ..checkpoint.text_encoder import TextEncoderFiles
from ..lora import Stack
from ..memory.placement import Room
from ..memory.ring import Link
from ..settings import Resources
from ..text import Tokenizer
from .needs.blueprint import Blueprint
from .plan import Plan
from .stage import TRANSFORMER, Events, Load, NetworkKey, Networks, Stage, StageT

EngineT = TypeVar("EngineT", bound="Engine")


class Engine(Protocol):
    """The owner of a card: a host's memory management, this package's own, or a stand-in for tests."""

    models: Models
    events: Events
    loras: Stack  # that every network gets, unless a stage has others
    resources: Resources  # with which attention the transformer computes, compiled or as CUDA graphs, and how LoRAs act
    other_devices: Sequence[torch.device]  # help the first one

    @property
    def encoder(self) -> TextEncoderFiles:
        """The files of the text encoder."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the text encoder."""

    @property
    def blueprint(self) -> Blueprint:
        """The networks as shapes, in the formats they run in."""

    def device(self, key: NetworkKey[Any]) -> torch.device:
        """Return where a network runs."""

    def dtype(self, key: NetworkKey[Any]) -> torch.dtype:
        """Return what a network computes in."""

    def room(self, key: NetworkKey[Any] = TRANSFORMER) -> Room:
        """Return what a stage that streams this network may take now."""

    def room_on(self, device: torch.device) -> Room:
        """Return what a stage may take of ``device`` now."""

    def link_to(self, device: torch.device) -> Link:
        """Return what brings weights to ``device``."""

    def holds(self, key: NetworkKey[Any]) -> bool:
        """Return whether a network is built already."""

    @property
    def spare_ram(self) -> int:
        """Bytes of RAM that are neither taken nor promised nor kept free; may be negative."""

    def follow(self, plan: Plan) -> None:
        """Place every stage of ``plan`` as it says.

        Raises:
            DoesNotFitError: if the plan does not fit.
        """

    @property
    def load(self) -> Load:
        """What LoRAs and CUDA graphs add to the needs of stages."""

    def clear_ram(self, nbytes: int) -> None:
        """Let weights that rest in RAM make room for ``nbytes`` of frames."""

    def fit(self, stage: StageT) -> StageT:
        """Return ``stage`` as it was planned, or as it fits now: with its tiles chosen."""

    def use(self, stage: Stage, loras: Stack | None = None) -> AbstractContextManager[Networks]:
        """Bring the networks of ``stage`` to where they run, for as long as the context lasts.

        Args:
            stage: placed as it was planned, or as it fits now.
            loras: in place of those of the model.

        Raises:
            DoesNotFitError: if the stage does not fit.
        """

    def in_float32(self: EngineT, keys: Iterable[NetworkKey[Any]]) -> EngineT:
        """Return the same engine with these networks in float32; stages are placed as they fit now."""

    def set_moment(self, sigma: float, step: int) -> None:
        """Set the sigma and step at which LoRA schedules of the networks in use are evaluated."""
