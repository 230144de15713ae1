"""Guide frames and a reference sound as ComfyUI's own nodes hand them on (``README.md``, "What ComfyUI's nodes give").

``LTXVAddGuide`` appends guide frames to the latent, where ``LTXVCropGuides`` will look for them, and writes beside the
prompt where in the clip they are. ``LTXVReferenceAudio`` writes the tokens of a sound there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..errors import SettingError
from ..latents import AVLatent
from .masks import fit_video_mask
from .reference import ReferenceAudioTokens
from .state import State, tokens

PLACES, ATTENTION, SOUND = "keyframe_idxs", "guide_attention_entries", "ref_audio"  # the host's names

_CROP = "crop the guides with LTXVCropGuides before the latent is cut or enlarged, and add them again at the new size"


@dataclass(frozen=True, eq=False)
class Guides:
    """Append frames that the clip attends to, each at a place of its own; they also attend to each other.

    Where ``mask`` is negative there is no token: a smaller grid of an IC-LoRA leaves such gaps.
    """

    latent: Tensor  # (B or 1, C, g, H, W)
    positions: Tensor  # (B or 1, 3, g * H * W, 2), start and end of each token in frames and pixels
    mask: Tensor  # (B or 1, 1, g, H, W), 1 = generate, 0 = keep
    weight: Tensor | None = None  # (g * H * W,), how strongly clip and guide attend to each other; None for fully
    stream: ClassVar[str] = "video"

    def __call__(self, state: State) -> State:
        """Apply it to ``state``."""
        positions, mask = self.positions.to(state.positions), tokens(self.mask).to(state.mask)
        seconds = torch.cat((positions[:, :1] / float(state.fps), positions[:, 1:]), dim=1)
        longer = state.append(self.latent, seconds, 1 - mask.clamp(0, 1), self.weight)
        here = mask[0, :, 0] >= 0
        if here.all():
            return longer
        before = torch.ones(state.latent.shape[1], dtype=torch.bool, device=here.device)
        return longer.select(torch.cat((before, here)).nonzero().flatten(), state.shape)


@dataclass(frozen=True, eq=False)
class _Attention:
    """How strongly the clip attends to one guide: a strength, and perhaps pictures of weights."""

    count: int  # of its tokens, gaps included
    strength: float
    mask: Tensor | None = None  # (F, height, width)
    shape: tuple[int, int, int] | None = None  # (f, h, w) of its tokens without gaps

    @classmethod
    def read(cls, entry: Any) -> "_Attention":
        """Read what a host's node wrote; raises SettingError for what is not of its form."""
        try:
            mask, shape = entry.get("pixel_mask"), entry.get("latent_shape")
            frames = None if mask is None else mask[0, 0].float().cpu()
            size = None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2]))
            return cls(int(entry["pre_filter_count"]), float(entry["strength"]), frames, size)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise SettingError(
                "This CONDITIONING says in a form that our nodes do not know how strongly the clip attends to its "
                "guide frames: add them with LTXVAddGuide of ComfyUI."
            ) from None

    def weights(self, here: Tensor) -> Tensor:
        """Return the weight of each token; ``here`` (count,) is False for gaps."""
        weights = torch.ones(len(here))
        if self.mask is None or self.shape is None:
            return weights.masked_fill(here, self.strength)
        values = self.strength * _mean_cells(self.mask, self.shape).flatten()
        present = here.nonzero().flatten()[: len(values)]
        weights[present] = values[: len(present)]
        return weights


@dataclass(frozen=True, eq=False)
class GuidePlaces:
    """What a CONDITIONING says about the guide frames at the end of its video latent."""

    positions: Tensor  # (B or 1, 3, M, 2), start and end of each token in frames and pixels
    attention: tuple[_Attention, ...] = ()

    @classmethod
    def read(cls, prompts: Sequence[Mapping[str, Any]]) -> "GuidePlaces | None":
        """Read what stands beside ``prompts``; None without guides.

        Raises:
            SettingError: for several prompts with different guides, and for places in no form that is known.
        """
        positions = _only(prompts, PLACES, lambda value: value)
        if positions is None:
            return None
        if not isinstance(positions, Tensor) or positions.ndim != 4 or positions.shape[1:4:2] != (3, 2):
            raise SettingError(
                f"This CONDITIONING holds guide frames ({PLACES}) in a form that our nodes do not know: add them with "
                "LTXVAddGuide of ComfyUI."
            )
        entries = next((each[ATTENTION] for each in prompts if each.get(ATTENTION)), ())
        return cls(positions, tuple(map(_Attention.read, entries))) if positions.shape[2] else None

    def split(self, content: AVLatent, mask: Tensor | None) -> tuple[AVLatent, Guides]:
        """Split a latent into that of the clip alone, and its guides.

        Args:
            content: with the guide frames at the end of its video (B, C, F + g, H, W).
            mask: the noise mask of the video as ``fit_video_mask`` takes it; None keeps the guides as they are.

        Raises:
            SettingError: if the guides were made for a latent of another size.
        """
        if content.video is None:
            raise SettingError(
                "This CONDITIONING holds guide frames, but the LATENT has no picture: connect the latent that "
                "LTXVAddGuide hands out."
            )
        own = content.video.shape[2] - self._frames(content.video)
        video, frames = content.video[:, :, :own], content.video[:, :, own:]
        kept = torch.zeros_like(frames[:, :1]) if mask is None else fit_video_mask(mask, content.video)[:, :, own:]
        return replace(content, video=video), Guides(frames, self.positions, kept, self._weight(tokens(kept)[0, :, 0]))

    def _frames(self, video: Tensor) -> int:
        """The latent frames of all guides, of which each must have the height and width of ``video``."""
        length, height, width = video.shape[2:]
        frames, rest = divmod(self.positions.shape[2], height * width)
        ends = [int(each) + geometry.SPACE_SCALE for each in self.positions[0, 1:, :, 0].amax(-1)]
        if rest or frames >= length or ends != [height * geometry.SPACE_SCALE, width * geometry.SPACE_SCALE]:
            raise SettingError(
                f"This CONDITIONING holds guides for {ends[1]} x {ends[0]} pixels with {self.positions.shape[2]} "
                f"tokens, but the LATENT has {length} latent frames of {width * geometry.SPACE_SCALE} x "
                f"{height * geometry.SPACE_SCALE}, guides included: {_CROP}."
            )
        return frames

    def _weight(self, mask: Tensor) -> Tensor | None:
        """The attention weight of each token, given its noise ``mask``; None if all are 1."""
        counts = [each.count for each in self.attention]
        if not counts:
            return None
        if sum(counts) != len(mask):
            raise SettingError(
                f"This CONDITIONING says for {sum(counts)} tokens of guide frames how strongly the clip attends to "
                f"them, but has {len(mask)}: add all guides with LTXVAddGuide of ComfyUI."
            )
        parts = (mask >= 0).cpu().split(counts)
        weight = torch.cat([each.weights(here) for each, here in zip(self.attention, parts)])
        return None if (weight == 1).all() else weight


def check_same_guides(prompts: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> None:
    """Check what stands beside ``others`` against ``prompts``, whose guides and sound count for all passes.

    Raises:
        SettingError: ``others`` have guides or a sound that ``prompts`` do not have.
    """
    for key, node in ((PLACES, "LTXVAddGuide"), (SOUND, "LTXVReferenceAudio")):
        if not any(each.get(key) is not None for each in prompts) and any(each.get(key) is not None for each in others):
            raise SettingError(
                f"The negative prompt or a segment comes from {node}, the positive prompt does not: connect both of "
                "its CONDITIONING outputs."
            )
    GuidePlaces.read((*prompts, *others))
    read_sound((*prompts, *others))


def read_sound(prompts: Sequence[Mapping[str, Any]]) -> ReferenceAudioTokens | None:
    """Return the reference sound that stands beside ``prompts``; None without one.

    Raises:
        SettingError: for different ones, and for one in a form that is not known.
    """
    sound = _only(prompts, SOUND, lambda value: value.get("tokens") if isinstance(value, Mapping) else value)
    if sound is None:
        return None
    width = geometry.AUDIO_CHANNELS * geometry.AUDIO_BINS
    if not isinstance(sound, Tensor) or sound.ndim != 3 or sound.shape[2] != width:
        raise SettingError(
            f"This CONDITIONING holds a reference sound ({SOUND}) in a form that our nodes do not know: make it with "
            "LTXVReferenceAudio of ComfyUI, or give it with LTX-2 Reference Audio."
        )
    return ReferenceAudioTokens(geometry.audio_latent(sound))


def _only(prompts: Sequence[Mapping[str, Any]], key: str, of: Any) -> Any:
    """What ``of`` makes of the value that prompts have for ``key``; None where no prompt has one."""
    values = [of(each[key]) for each in prompts if each.get(key) is not None]
    first, *others = values or [None]
    for each in others:
        both = isinstance(each, Tensor) and isinstance(first, Tensor)
        if each is not first and not (both and torch.equal(each, first)):
            raise SettingError(
                f"These prompts come with different guide frames or reference sounds ({key}): add them after "
                "ConditioningCombine, to the positive and the negative prompt alike."
            )
    return first


def _mean_cells(mask: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Reduce weights (F, height, width) to the cells (f, h, w) of a guide: its first frame, then equal shares."""
    length, height, width = shape
    small = F.interpolate(mask[:, None], (height, width), mode="area")[:, 0]
    if len(small) == 1 or length == 1:
        return small[:1].expand(shape)
    first, later = small[:1], small[1:]
    each = len(later) // (length - 1)
    if not each:
        return torch.cat((first, later[torch.arange(length - 1) * len(later) // (length - 1)]))
    return torch.cat((first, later[: each * (length - 1)].unflatten(0, (length - 1, each)).mean(1)))
