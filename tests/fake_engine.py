"""An engine that owns no card: it builds every network once, keeps it, and places nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch

from ltx2_core.checkpoint import Models, build
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.checkpoint.upscaler import build_upscaler
from ltx2_core.memory.placement import UNLIMITED
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.pipeline.stage import TRANSFORMER, Events, Load, Networks
from ltx2_core.settings import Resources


class FakeEngine:
    """The Engine protocol, as small as it can be."""

    loras, resources = (), Resources()

    def __init__(self, models: Models, events: Events = Events()):
        self.models, self.events = models, events
        self.plan = None
        self.used: list[str] = []  # names of the stages that ran
        self.moments: list[tuple[float, int]] = []
        self._networks = {}

    @cached_property
    def encoder(self):
        return open_text_encoder(self.models.text_encoder)

    @cached_property
    def tokenizer(self):
        return self.encoder.tokenizer()

    @property
    def blueprint(self):
        dtypes = dict.fromkeys((*self.models.sources, "text_encoder"), torch.float32)
        return Blueprint.of_files(self.models, self.encoder, dtypes)

    def device(self, key):
        return torch.device("cpu")

    def dtype(self, key):
        return torch.float32

    def room(self, key=TRANSFORMER):
        return UNLIMITED

    def follow(self, plan):
        plan.check()
        self.plan = plan

    load = Load()

    def clear_ram(self, nbytes):
        """Nothing rests here."""

    def fit(self, stage):
        planned = None if self.plan is None else self.plan.stage(stage)
        return (planned or stage).fit(self.blueprint, UNLIMITED)

    @contextmanager
    def use(self, stage, loras=None) -> Iterator[Networks]:
        assert not loras
        self.used.append(stage.name)
        yield Networks({key: self.network(key) for key in stage.networks})

    def set_moment(self, sigma, step):
        self.moments.append((sigma, step))

    def network(self, key):
        """Return the network of ``key``, built when it is asked for first."""
        if key not in self._networks:
            parts = tuple(self._build(key))
            self._networks[key] = parts[0] if len(parts) == 1 else parts
        return self._networks[key]

    def _build(self, key):
        if key.source is not None:
            yield build_upscaler(key.source, torch.float32)
        for name in key.components:
            if name == "text_encoder":
                yield build_text_encoder(self.encoder, torch.float32)
            else:
                yield build(self.models, name, torch.float32)
