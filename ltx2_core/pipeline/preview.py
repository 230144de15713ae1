"""What does the clip look and sound like so far? Small frames of every step, and a picture of its sound."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from time import monotonic
from typing import Any, Protocol

from torch import Tensor

from ..audio_vae import AudioDecoder
from ..audio_vae.preview import MelFactors, preview_mel
from ..checkpoint import Models
from ..latents import AVLatent
from ..sampling import Step
from ..video_vae.preview import PreviewFactors, released_factors
from .engine import Engine
from .messages import SEPARATOR, StepTimer, working
from .sketch import sketch
from .stage import AUDIO_DECODER, TRANSFORMER, NetworkKey, Networks

PREVIEW_TIME_SHARE = 0.02  # of a run


class PreviewWishes:
    """Whether each browser, by its id, wants the moving preview; of MOST_BROWSERS at most, those that told last."""

    MOST_BROWSERS = 256

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._told: dict[str, bool] = {}

    def remember(self, told: object) -> str:
        """Note what a browser has told, such as {"client": "a1", "on": True}; return what is wrong with it, or ""."""
        client, on = (told.get("client"), told.get("on")) if isinstance(told, dict) else (None, None)
        if not isinstance(client, str) or not isinstance(on, bool):
            return "expected client and on, such as {client: text, on: true}"
        self._told.pop(client, None)
        self._told[client] = on
        for oldest in list(self._told)[: -self.MOST_BROWSERS]:
            del self._told[oldest]
        return ""

    def of(self, client: str | None, otherwise: bool) -> bool:
        """Return what a browser wants; one that has not told it gets ``otherwise``."""
        return otherwise if client is None else self._told.get(client, otherwise)


class Screen(Protocol):
    """Where a preview is shown.

    Attributes:
        moving: whether a moving preview is wanted.
        still: whether a picture beside the progress is wanted.
    """

    moving: bool
    still: bool

    def size(self) -> int:
        """Return how many pixels the longer side of a preview may have."""

    def show_clip(self, content: dict[str, Any]) -> None:
        """Show the moving preview, which ``Sketch.as_message`` has made, with its step."""

    def show_status(self, status: str) -> None:
        """Show what is done just now."""

    def show_progress(self, done: int, total: int, picture: Tensor | None = None) -> None:
        """Show how far the run is, and perhaps a picture (H, W, 3)."""


@dataclass(frozen=True)
class MiniatureFactors:
    """What shows the latents of the miniature, which has no networks for it."""

    picture: PreviewFactors
    sound: MelFactors


class Preview:
    """Shows how far a run is, and what it looks like if the user wants to see it.

    The first and the last step are always shown, and as many between them as take no more than PREVIEW_TIME_SHARE of
    the time.
    """

    def __init__(
        self,
        screen: Screen,
        models: Models,
        begin: AVLatent,
        fps: Fraction,
        miniature: Callable[[], MiniatureFactors],
    ):
        """Prepare for one run that begins with the latent ``begin``."""
        self.screen, self._models, self._fps = screen, models, fps
        self._has_sound = begin.audio is not None
        self._decoder: AudioDecoder | None = None
        self._miniature = miniature() if models.is_miniature else None
        self._factors = released_factors() if self._miniature is None else self._miniature.picture
        self._begun = self._spent = 0.0
        self._timer, self._stage = StepTimer(), ""
        self.last_step: Step | None = None

    def networks(self, engine: Engine) -> list[NetworkKey[Any]]:
        """Return what must be ready beside the transformer: the audio decoder of a released model, if it is wanted.

        Decoding five seconds of sound takes 0.3 TFLOP, 0.15 % of one pass over a clip of 768 x 512 pixels. On another
        device than the transformer's it would hold up the run, so there the sound is not shown.
        """
        wanted = (self.screen.moving or self.screen.still) and self._has_sound and self._miniature is None
        if not wanted or "audio_decoder" not in self._models.sources:
            return []
        return [AUDIO_DECODER] if engine.device(AUDIO_DECODER) == engine.device(TRANSFORMER) else []

    def start(self, networks: Networks, stage: str) -> None:
        """Begin a run of ``stage`` with these networks."""
        self._decoder, self._stage = networks.find(AUDIO_DECODER), stage
        self._begun, self._spent, self._timer = monotonic(), 0.0, StepTimer()

    def on_step(self, done: int, total: int, step: Step) -> None:
        """Show step ``done`` of ``total``."""
        self.last_step, now, screen = step, monotonic(), self.screen
        screen.show_status(f"{working(self._stage, done, total)}{SEPARATOR}{self._timer.count(done, total)}")
        too_often = 1 < done < total and self._spent > PREVIEW_TIME_SHARE * (now - self._begun)
        if too_often or not (screen.moving or screen.still):
            screen.show_progress(done, total)
            return
        clip, size = sketch(step.x0, self._fps, self._factors, self._to_mel), screen.size()
        if screen.moving:
            screen.show_clip({"step": done, "steps": total, **clip.as_message(size)})
        screen.show_progress(done, total, clip.still(size // 2) if screen.still else None)  # the host enlarges it
        self._spent += monotonic() - now

    def _to_mel(self, audio: Tensor) -> Tensor | None:
        if self._miniature is not None:
            return preview_mel(audio, self._miniature.sound)
        return None if self._decoder is None else self._decoder(audio[:1]).float()[0].mean(dim=0).cpu()
