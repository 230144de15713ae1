"""What the stages of one clip share: the files, the device and its plan, and whom to tell."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from .checkpoint import Models, build
from .checkpoint.text_encoder import TextEncoderFiles, build_text_encoder, open_text_encoder
from .checkpoint.upscaler import UpscalerFile, build_upscaler
from .geometry import ClipShape
from .health import Finding
from .lora import LoraAdapter, Stack, compare
from .lora.stack import for_component
from .memory import Residency, compute_dtype
from .memory.plan import Plan, plan
from .memory.stages import Blueprint, Extent, Need
from .quantization import check_format
from .video_vae import Tiling

OnProgress = Callable[[str, int, int], None]
OnFinding = Callable[[Finding], None]
Check = Callable[[], None]

_log = logging.getLogger(__name__)


class Run:
    """One clip on its way: builds each network when its stage comes, and frees it afterwards.

    The arguments are those of ``generate``.
    """

    def __init__(
        self,
        models: Models,
        dtype: torch.dtype | None = None,
        format: str | None = None,
        device: torch.device | str | None = None,
        vram: int | None = None,
        ram: int | None = None,
        on_progress: OnProgress | None = None,
        on_finding: OnFinding | None = None,
        check: Check | None = None,
        loras: Stack = (),
    ):
        check_format(format)
        for lora, _ in loras:
            compare(lora, models)
        self.models, self.loras, self._format = models, loras, format
        self.residency = Residency(device, vram, ram, models.source("transformer").file.path)
        self.device = self.residency.device
        self.dtype = dtype or compute_dtype(self.device)
        self.report: OnProgress = on_progress or (lambda stage, done, total: None)
        self.check: Check = check or (lambda: None)
        self._on_finding = on_finding or (lambda finding: None)
        self._plan: Plan | None = None
        self._adapted: list[LoraAdapter] = []  # the networks in use

    def tell(self, findings: Sequence[Finding]) -> None:
        """What looks or sounds wrong."""
        for finding in findings:
            self._on_finding(finding)

    @cached_property
    def encoder(self) -> TextEncoderFiles:
        """The files of Gemma; ValueError if none were given."""
        if self.models.text_encoder is None:
            raise ValueError("No text encoder was given; prompts need Gemma 3 12B, as a folder or a safetensors file.")
        return open_text_encoder(self.models.text_encoder)

    @cached_property
    def blueprint(self) -> Blueprint:
        """The networks as they will be loaded."""
        return Blueprint.of_files(self.models, self.encoder, self.dtype, self._format)

    def foresee(
        self,
        shape: ClipShape,
        passes: Sequence[str],
        steps: int,
        stg_block: int,
        prompts: int,
        tiling: Tiling | None,
        sampled: Extent,
        encoded: Extent,
        later: Sequence[Need] = (),
    ) -> Tiling:
        """Plan all stages, and log the plan; returns the tiles to decode in. ValueError if the clip does not fit."""
        if (budget := self.residency.budget) is None:
            return tiling or Tiling()
        self._plan = plan(
            self.blueprint,
            shape,
            machine=self.residency.machine,
            passes=passes,
            steps=steps,
            stg_block=stg_block,
            prompts=prompts,
            budget=budget,
            ram=self.residency.ram,
            tiling=tiling,
            sampled=sampled,
            encoded=encoded,
            later=later,
        )
        _log.info(self._plan.explain())
        if not self._plan.fits:
            raise ValueError(self._plan.refusals[0])
        return self._plan.tiling

    @property
    def encode_tiling(self) -> Tiling:
        """The tiles to encode in."""
        return Tiling() if self._plan is None else self._plan.encode_tiling

    @contextmanager
    def use(self, *names: str | UpscalerFile, stage: str, loras: Stack | None = None) -> Iterator[Sequence[Any]]:
        """These networks, built, and ready to run what the plan calls ``stage``; nothing of them stays behind.

        ``loras`` take the place of those of the run.
        """
        self.check()
        built = [self._built(name) for name in names]
        stack_of = self.loras if loras is None else loras
        adapted = [
            LoraAdapter(each, for_component(stack_of, name), name, fuse=self.fuses)
            for each, name in zip(built, names)
            if isinstance(name, str)
        ]
        patches = {
            f"{i}.{name}": patch for i, each in enumerate(adapted) for name, patch in each.weight_patches.items()
        }
        need = None if self._plan is None else self._plan.stage(stage).need
        if need is not None:
            need = replace(need, inputs=need.inputs + sum(each.card_bytes for each in adapted))
        with ExitStack() as stack:
            networks = stack.enter_context(self.residency.use(*built, need=need, patches=patches))
            for each in adapted:
                stack.enter_context(each.attached())
            self._adapted = adapted
            stack.callback(adapted.clear)
            del built
            yield networks

    @property
    def fuses(self) -> bool:
        """Whether LoRAs change copies of weights; on a CPU weights lie where they are used, and are not copied."""
        return self.device.type != "cpu"

    def at(self, sigma: float, step: int) -> None:
        """From now on the schedules of LoRAs are at this moment of a run."""
        for each in self._adapted:
            each.set_moment(sigma, step)

    def _built(self, name: str | UpscalerFile) -> Any:
        if isinstance(name, UpscalerFile):
            return build_upscaler(name, self.dtype)
        if name == "text_encoder":
            return build_text_encoder(self.encoder, self.dtype)
        return build(self.models, name, self.dtype, "cpu", self._format if name == "transformer" else None)
