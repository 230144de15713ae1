"""What does the clip look and sound like so far? Small frames of every step, and a picture of its sound."""

from collections.abc import Callable
from fractions import Fraction
from time import monotonic
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.audio_vae import AudioDecoder
from ..ltx2_core.audio_vae.preview import preview_mel
from ..ltx2_core.checkpoint import Models
from ..ltx2_core.mini.preview import miniature_factors, miniature_mel_factors
from ..ltx2_core.pipeline.messages import SEPARATOR, Pace, working
from ..ltx2_core.pipeline.sketch import Sketch, data_url, sketch
from ..ltx2_core.pipeline.stage import AUDIO_DECODER, TRANSFORMER, Engine, NetworkKey, Networks
from ..ltx2_core.sampling import Step
from ..ltx2_core.video_vae.preview import released_factors
from . import host

EVENT, STATUS = "ltx2av.preview", "ltx2av.status"  # js/preview.js plays what they bring
PREVIEW_TIME_SHARE = 0.02  # of a run


class Preview:
    """Shows how far a run is, and what it looks like if the user wants to see it.

    The moving preview goes to our widget in the browser, a still one to whoever asks the host for previews. The first
    and the last step are always shown, and as many between them as take no more than PREVIEW_TIME_SHARE of the time.
    """

    def __init__(self, node: type[io.ComfyNode], models: Models, fps: Fraction, has_sound: bool):
        """Prepare for one run of the class ``node``."""
        self._node_id, self._models, self._fps = node.hidden.unique_id, models, fps
        self._has_sound, self._moving, self._still = has_sound, host.wants_live_preview(), host.wants_previews()
        self._bar: Callable[..., None] = host.progress()
        self._decoder: AudioDecoder | None = None
        self._factors = miniature_factors() if models.is_miniature else released_factors()
        self._begun = self._spent = 0.0
        self._pace, self._stage = Pace(), ""
        self.last_step: Step | None = None

    def networks(self, engine: Engine) -> list[NetworkKey[Any]]:
        """Return what must be ready beside the transformer: the audio decoder of a released model, if it is wanted.

        Decoding five seconds of sound takes 0.3 TFLOP, 0.15 % of one pass over a clip of 768 x 512 pixels. On another
        device than the transformer's it would hold up the run, so there the sound is not shown.
        """
        wanted = (self._moving or self._still) and self._has_sound and not self._models.is_miniature
        if not wanted or "audio_decoder" not in self._models.sources:
            return []
        return [AUDIO_DECODER] if engine.device(AUDIO_DECODER) == engine.device(TRANSFORMER) else []

    def start(self, networks: Networks, stage: str) -> None:
        """Begin a run of ``stage`` with these networks."""
        self._decoder, self._stage = networks.find(AUDIO_DECODER), stage
        self._begun, self._spent, self._pace = monotonic(), 0.0, Pace()

    def show_status(self, status: str) -> None:
        """Show what the node does just now: below the clip, or where none plays, as its text."""
        if self._moving:
            host.send(STATUS, self._node_id, {"status": status})
        else:
            host.show_status(status)

    def on_step(self, done: int, total: int, step: Step) -> None:
        """Show step ``done`` of ``total``."""
        self.last_step, now = step, monotonic()
        self.show_status(f"{working(self._stage, done, total)}{SEPARATOR}{self._pace.count(done, total)}")
        too_often = 1 < done < total and self._spent > PREVIEW_TIME_SHARE * (now - self._begun)
        if too_often or not (self._moving or self._still):
            self._bar(done, total)
            return
        clip, size = sketch(step.x0, self._fps, self._factors, self._to_mel), host.preview_size()
        if self._moving:
            host.send(EVENT, self._node_id, {"step": done, "steps": total, **_moving(clip, size)})
        self._bar(done, total, clip.still(size // 2) if self._still else None)  # the host enlarges it
        self._spent += monotonic() - now

    def _to_mel(self, audio: Tensor) -> Tensor | None:
        if self._models.is_miniature:
            return preview_mel(audio, miniature_mel_factors())
        return None if self._decoder is None else self._decoder(audio[:1]).float()[0].mean(dim=0).cpu()


def _moving(clip: Sketch, size: int) -> dict[str, Any]:
    """Return all frames on one sheet, and the sound, for our widget; no side of a frame is above ``size``."""
    content: dict[str, Any] = {"seconds": clip.seconds, "video": None, "audio": None}
    if sheet := clip.sheet(size):
        shape = {"width": sheet.width, "height": sheet.height, "columns": sheet.columns, "starts": clip.starts}
        content["video"] = {"image": data_url(sheet.picture), **shape}
    if (sound := clip.sound_picture(size)) is not None:
        content["audio"] = {"image": data_url(sound)}
    return content
