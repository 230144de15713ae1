"""Guidance of a stream: a sum of terms, each of which compares the conditional pass with one that leaves something out.

The equation of each term is in ``README.md`` of this folder, "Guidance". A new term is one field of ``Guidance`` and
one line of ``Guidance.terms``, and a row of ``PASSES`` if it needs a pass that does not exist yet; the denoiser and the
planner read what they need from here.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from torch import Tensor

from ..errors import SettingError
from ..fields import Checked, Number, Slider, Switch, Whole, Words, plain_numbers, zero
from ..latents import STREAMS
from ..transformer import UNPERTURBED, Nag, Perturbation
from .samplers import Sampler

# --------------------------------------------------------------------------------------------------------------- terms


@dataclass(frozen=True)
class Term:
    """One summand of the guidance of a stream: away from what a pass makes that leaves something out.

    Attributes:
        name: of this pass, a row of ``PASSES``.
        weight: how far; 0 is neutral.
        asks: whether it lets the pass run; else it follows it where the other stream does.
    """

    name: str
    weight: float
    asks: bool = True

    def delta(self, cond: Tensor, other: Tensor) -> Tensor:
        """Return the summand, given the estimates (B, N, C) of the conditional and of the other pass, float32."""
        return self.weight * self.direction(cond, other)

    def direction(self, cond: Tensor, other: Tensor) -> Tensor:
        """Return what leads from the estimate of the other pass to the conditional one."""
        return cond - other


@dataclass(frozen=True)
class TextCFG(Term):
    """Classifier-free guidance by text: away from what the negative prompt makes (Ho and Salimans, arXiv:2207.12598).

    With ``star`` the negative estimate is first scaled to fit the conditional one (CFG-Zero*, arXiv:2503.18886).
    ``parallel`` is how much of the term along the conditional estimate is kept, and ``limit`` cuts its norm, 0 does not
    (APG, arXiv:2410.02416).
    """

    star: bool = False
    parallel: float = 1.0
    limit: float = 0.0

    def direction(self, cond: Tensor, other: Tensor) -> Tensor:
        """Return cond - other in its plain form."""
        if self.star:
            other = _along(cond, other)
        difference = cond - other
        if self.limit:
            norm = difference.flatten(1).norm(dim=1).view(-1, *[1] * (cond.ndim - 1))
            difference = difference * (self.limit / norm).clamp(max=1)
        if self.parallel != 1:
            difference = difference + (self.parallel - 1) * _along(difference, cond)
        return difference


def _along(x: Tensor, direction: Tensor) -> Tensor:
    """The part of each sample of ``x`` that lies along ``direction``."""
    product, square = ((a * direction).flatten(1).sum(1) for a in (x, direction))
    return (product / (square + 1e-8)).view(-1, *[1] * (x.ndim - 1)) * direction


# ------------------------------------------------------------------------------------------------------------- settings


def read_stg_blocks(text: str) -> tuple[int, ...] | None:
    """Return block numbers as people write them; None for "auto". Raises SettingError for other words."""
    if text.strip() == "auto":
        return None
    try:
        return tuple(int(number) for number in plain_numbers(text).split(",") if number.strip())
    except ValueError:
        raise SettingError(f"stg_blocks is {text!r}; write block numbers, such as 28 or 14, 19, or auto.") from None


@dataclass(frozen=True)
class Guidance(Checked):
    """The guidance settings of one stream: how strongly it follows its text, the other stream, and itself.

    Official convention: a ``scale`` of 1 is neutral; the paper's s_t and s_m are ``text_scale - 1`` and
    ``cross_modal_scale - 1``. The STG scale and the identity scale count from 0.
    """

    text_scale: Annotated[
        float,
        Slider(1, 20, 0.1, shown=3.0, label="text CFG"),
        "How closely picture and sound follow the prompt. Higher follows it more closely, at the cost of motion and "
        "natural colours. 1 follows it plainly, ignores the negative prompt and saves a pass; distilled models need "
        "1. (The paper's s_t is this minus 1.)",
    ] = 1.0
    cross_modal_scale: Annotated[
        float,
        Slider(1, 20, 0.1, shown=3.0, label="cross-modal CFG"),
        "How closely picture and sound follow each other. Higher makes lips and impacts meet their sounds. 1 leaves "
        "it to the model and saves a pass; distilled models need 1. (The paper's s_m is this minus 1.)",
    ] = 1.0
    stg_scale: Annotated[
        float,
        Number(0, 5, 0.1, shown=1.0, advanced=True),
        "Spatio-temporal guidance: steers away from what the model makes with parts of its attention off. Higher "
        "holds bodies and objects together better, too high stiffens them. 0 saves a pass; distilled models need 0.",
    ] = 0.0
    stg_blocks: Annotated[
        tuple[int, ...],
        Words(shown="auto", advanced=True, reads=read_stg_blocks),
        "Whose attention is off for this guidance: block numbers with commas between them. auto takes the official "
        "one (29 for 2.0, 28 since 2.3), or none where the model has no such block.",
    ] = ()
    rescale: Annotated[
        float,
        Number(0, 1, 0.05, shown=0.7, advanced=True),
        "How much of the contrast that guidance adds is taken back. Higher prevents burnt colours and clipped sound, "
        "at 1 things may look flat.",
    ] = 0.0
    cfg_star: Annotated[
        bool,
        Switch(advanced=True),
        "Fits the strength of the negative prediction to the positive one before it is subtracted (CFG*). Calmer "
        "colours in the first steps.",
    ] = False
    apg_parallel: Annotated[
        float,
        Number(0, 2, 0.05, advanced=True),
        "How much of the text guidance that only makes things stronger is kept (APG). Towards 0, high text scales "
        "burn colours less; 1 is plain guidance.",
    ] = 1.0
    apg_limit: Annotated[
        float,
        Number(0, 1000, 0.5, advanced=True, instead=zero("not cut", usual=15)),
        "The text guidance is cut to this size (APG's norm threshold). 0 does not cut it.",
    ] = 0.0
    nag_scale: Annotated[
        float,
        Number(1, 20, 0.1, advanced=True),
        "Negative prompt inside the attention (NAG): works where the text scale is 1, so for distilled models, and "
        "costs little. 5 is a beginning; 1 is off. Needs a negative prompt.",
    ] = 1.0
    nag_limit: Annotated[
        float, Number(0, 10, 0.1, advanced=True), "How much larger NAG may make what the prompt says."
    ] = 2.5
    nag_blend: Annotated[
        float, Number(0, 1, 0.05, advanced=True), "How much of NAG's result is taken; higher is stronger."
    ] = 0.25
    skip_steps: Annotated[
        int,
        Whole(0, 10, advanced=True),
        "After each computed step, so many steps reuse its result for this stream. Faster, and rougher; where both "
        "streams skip, a step costs nothing, or half with heun and res_2s.",
    ] = 0
    identity_scale: Annotated[
        float,
        Number(0, 20, 0.1, advanced=True, instead=zero("off", usual=3)),
        "How much more of the voice of a reference sound is taken over (ID-LoRA's identity guidance): steers away from "
        "what the model makes without it. ID-LoRA uses 3, for the sound alone. Costs a pass where a reference sound is "
        "given, and does nothing elsewhere; 0 is off.",
    ] = 0.0

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms in the order in which they are summed, neutral ones included."""
        return (
            TextCFG("negative", self.text_scale - 1, True, self.cfg_star, self.apg_parallel, self.apg_limit),
            Term("perturbed", self.stg_scale, asks=bool(self.stg_blocks)),
            Term("isolated", self.cross_modal_scale - 1),
            Term("unreferenced", self.identity_scale),
        )

    @property
    def passes(self) -> frozenset[str]:
        """The passes that the terms need beside the conditional one."""
        return frozenset(term.name for term in self.terms if term.weight and term.asks)

    @property
    def uses_nag(self) -> bool:
        """True if the negative prompt also acts inside the text attention."""
        return self.nag_scale != 1

    @property
    def needs_negative_context(self) -> bool:
        """True if a negative prompt is needed at all, for a pass of its own or inside the attention."""
        return self.uses_nag or any(PASSES[name].reads_negative for name in self.passes)

    @property
    def rows(self) -> "tuple[Guidance, ...]":
        """Everything that applies at some noise level."""
        return (self,)

    def at(self, sigma: float) -> "Guidance":
        """Return the guidance at noise level ``sigma``, which is the same at all."""
        return self

    def skips(self, step: int) -> bool:
        """Return whether step number ``step``, counted from 0, reuses an earlier result."""
        return step % (self.skip_steps + 1) != 0

    def nag(self, context: Tensor) -> Nag:
        """Return the NAG settings with the negative prompt's ``context`` (B, L, D)."""
        return Nag(context, self.nag_scale, self.nag_limit, self.nag_blend)

    def describe(self) -> str:
        """Say in a few words what is not neutral."""
        blocks = ", ".join(map(str, self.stg_blocks))
        parts = {
            f"text {self.text_scale:g}": "negative" in self.passes,
            f"cross-modal {self.cross_modal_scale:g}": "isolated" in self.passes,
            f"STG {self.stg_scale:g} in block {blocks}": "perturbed" in self.passes,
            f"identity {self.identity_scale:g}": "unreferenced" in self.passes,
            f"rescale {self.rescale:g}": self.rescale != 0,
        }
        return ", ".join(words for words, is_said in parts.items() if is_said) or "no guidance"

    def combine(self, x0: Mapping[str, Tensor]) -> Tensor:
        """Add up the terms and take back contrast, in float32.

        Sums and deviations are taken over each sample, so that a sample does not depend on its neighbours in a batch.

        Args:
            x0: Maps passes to the estimates (B, N, C) of this stream; "cond" is always there. A term whose pass did not
                run adds nothing.

        Returns:
            The guided estimate in the dtype of "cond"; "cond" itself, bit for bit, where all terms are neutral.
        """
        precise = {name: estimate.float() for name, estimate in x0.items()}
        active = [term for term in self.terms if term.weight and term.name in precise]
        if not active:
            return x0["cond"]
        guided = cond = precise["cond"]
        for term in active:
            guided = guided + term.delta(cond, precise[term.name])
        return self._rescaled(cond, guided).to(x0["cond"].dtype)

    def _rescaled(self, cond: Tensor, guided: Tensor) -> Tensor:
        """Draw the deviation of each sample back to that of ``cond`` (arXiv:2305.08891, section 3.4)."""
        if not self.rescale:
            return guided
        axes = tuple(range(1, cond.ndim))
        factor = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
        return guided * (self.rescale * factor + 1 - self.rescale)


NEUTRAL = Guidance()


@dataclass(frozen=True)
class GuidanceBySigma:
    """Different guidance at different noise levels.

    ``table`` holds pairs of an upper bound and the guidance up to it; above all bounds the highest row applies. Raises
    SettingError for an empty table.
    """

    table: tuple[tuple[float, Guidance], ...]

    def __post_init__(self):
        if not self.table:
            raise SettingError("The guidance table is empty; it needs at least one row, for example (1.0, Guidance()).")

    @property
    def rows(self) -> tuple[Guidance, ...]:
        """Everything that applies at some noise level."""
        return tuple(guidance for _, guidance in self.table)

    def at(self, sigma: float) -> Guidance:
        """Return the row with the smallest bound that is not below ``sigma``."""
        rows = sorted(self.table, key=lambda row: row[0])
        return next((guidance for bound, guidance in rows if bound >= sigma), rows[-1][1])


AnyGuidance = Guidance | GuidanceBySigma


@dataclass(frozen=True)
class StreamGuidance:
    """The guidance of both streams."""

    video: AnyGuidance = NEUTRAL
    audio: AnyGuidance = NEUTRAL

    @property
    def rows(self) -> tuple[Guidance, ...]:
        """Everything that applies to some stream at some noise level."""
        return (*self.video.rows, *self.audio.rows)

    @property
    def first_stg_block(self) -> int:
        """The smallest number of a block that STG perturbs in any row, 0 if there is none."""
        return min((block for row in self.rows for block in row.stg_blocks), default=0)

    def for_streams(self, free: Collection[str]) -> "StreamGuidance":
        """Return the same, neutral for streams that are not in ``free``, as frozen and absent ones have to be."""
        return replace(self, **{name: NEUTRAL for name in STREAMS if name not in free})

    def needs_negative(self, sampler: Sampler) -> bool:
        """Return whether this guidance or ``sampler`` needs a negative prompt."""
        return sampler.needs_negative or any(row.needs_negative_context for row in self.rows)


# --------------------------------------------------------------------------------------------------------------- passes


@dataclass(frozen=True)
class PassKind:
    """A row of ``PASSES``: how a pass differs from the conditional one.

    ``leaves_out`` gives the perturbation of the pass from the guidance of video and audio.
    """

    leaves_out: Callable[[Guidance, Guidance], Perturbation]
    reads_negative: bool = False  # the negative prompt in place of the prompt
    needs_both_streams: bool = False
    hears_reference: bool = True  # False: without the reference sound, so that it needs one


def _nothing(video: Guidance, audio: Guidance) -> Perturbation:
    return UNPERTURBED


def _self_attention(video: Guidance, audio: Guidance) -> Perturbation:
    """Self-attention of each stream in the blocks of its own spatio-temporal guidance (STG, arXiv:2411.18664)."""
    own, other = (frozenset(each.stg_blocks if each.stg_scale else ()) for each in (video, audio))
    return Perturbation(own, other)


def _cross_modal_attention(video: Guidance, audio: Guidance) -> Perturbation:
    return Perturbation(audio_to_video=False, video_to_audio=False)


# In the official order, which is that of their batch; the last one is ID-LoRA's.
PASSES: dict[str, PassKind] = {
    "cond": PassKind(_nothing),
    "negative": PassKind(_nothing, reads_negative=True),
    "perturbed": PassKind(_self_attention),
    "isolated": PassKind(_cross_modal_attention, needs_both_streams=True),
    "unreferenced": PassKind(_nothing, hears_reference=False),
}


def passes_needed(
    guidance: Iterable[AnyGuidance],
    both_streams: bool = True,
    always_negative: bool = False,
    reference_sound: bool = False,
) -> list[str]:
    """List the passes that a step needs at most, in the order of ``PASSES``.

    Args:
        guidance: That of each stream.
        both_streams: The latent has video and audio.
        always_negative: The sampler uses the negative pass by itself.
        reference_sound: The sound has tokens of a reference beside its own.
    """
    needed = {"cond"} | {name for each in guidance for row in each.rows for name in row.passes}
    if always_negative:
        needed.add("negative")
    return [
        name
        for name, kind in PASSES.items()
        if name in needed
        and (both_streams or not kind.needs_both_streams)
        and (reference_sound or kind.hears_reference)
    ]


def in_walks(passes: Iterable[str], most: int | None = None) -> list[tuple[str, ...]]:
    """Group the passes of a step by the walk over the blocks in which they are computed.

    Args:
        passes: By their names in ``PASSES``.
        most: How many of them go together; None is all. Those that read the same prompt do before others.
    """
    ordered = sorted(passes, key=lambda name: PASSES[name].reads_negative) if most else list(passes)
    size = most or max(1, len(ordered))
    return [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
