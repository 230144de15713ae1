"""Steering one stream by what changes when something is left out (spec: sampling.md, section 6)."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """How strongly one stream follows its text, the other stream, and itself; everything composes.

    Official convention: a ``scale`` of 1 is neutral; the paper's s_t and s_m are ``text_scale - 1`` and
    ``cross_modal_scale - 1``. The STG scale counts from 0.
    """

    text_scale: float = 1.0
    cross_modal_scale: float = 1.0
    stg_scale: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    rescale: float = 0.0  # share of the contrast gained that is taken back
    cfg_star: bool = False  # scale the negative pass to fit the conditional one before subtracting it
    apg_parallel: float = 1.0  # how much of the text term along the conditional pass is kept; below 1 saturates less
    apg_limit: float = 0.0  # the text term's norm is cut to this; 0 = not
    nag_scale: float = 1.0  # negative prompt inside the text attention; needs no pass of its own
    nag_limit: float = 2.5
    nag_blend: float = 0.25
    skip_steps: int = 0  # after each step that is computed, so many reuse its result

    @property
    def needs_negative(self) -> bool:
        return self.text_scale != 1

    @property
    def needs_negative_context(self) -> bool:
        """Whether a negative prompt is needed at all, for a pass of its own or inside the attention."""
        return self.needs_negative or self.nag_scale != 1

    @property
    def needs_perturbed(self) -> bool:
        return self.stg_scale != 0 and bool(self.stg_blocks)

    @property
    def needs_isolated(self) -> bool:
        return self.cross_modal_scale != 1

    @property
    def rows(self) -> "tuple[Guidance, ...]":
        """All that may apply at some noise level."""
        return (self,)

    def at(self, sigma: float) -> "Guidance":
        """The guidance at a noise level: the same at all."""
        return self

    def skips(self, step: int) -> bool:
        """Whether step number ``step`` reuses an earlier result."""
        return step % (self.skip_steps + 1) != 0

    def combine(
        self,
        cond: Tensor,
        negative: Tensor | None = None,
        perturbed: Tensor | None = None,
        isolated: Tensor | None = None,
    ) -> Tensor:
        """The guided x0 of one stream from the x0 of each pass, in float32.

        With neutral scales the result is ``cond`` bit for bit. Sums and deviations are taken over each sample, so that
        a sample does not depend on its neighbours in a batch.
        """
        x = cond.float()
        guided = x
        if self.needs_negative and negative is not None:
            guided = guided + (self.text_scale - 1) * self._away_from(x, negative.float())
        if self.needs_perturbed and perturbed is not None:
            guided = guided + self.stg_scale * (x - perturbed.float())
        if self.needs_isolated and isolated is not None:
            guided = guided + (self.cross_modal_scale - 1) * (x - isolated.float())
        if guided is x:
            return cond
        if self.rescale:
            each = tuple(range(1, x.ndim))
            factor = x.std(each, keepdim=True) / guided.std(each, keepdim=True)
            guided = guided * (self.rescale * factor + 1 - self.rescale)
        return guided.to(cond.dtype)

    def _away_from(self, cond: Tensor, negative: Tensor) -> Tensor:
        """The direction of the text term, cond - negative in its plain form."""
        if self.cfg_star:
            negative = _along(cond, negative)
        difference = cond - negative
        if self.apg_limit:
            norm = difference.flatten(1).norm(dim=1).view(-1, *[1] * (cond.ndim - 1))
            difference = difference * (self.apg_limit / norm).clamp(max=1)
        if self.apg_parallel != 1:
            difference = difference + (self.apg_parallel - 1) * _along(difference, cond)
        return difference


def _along(x: Tensor, direction: Tensor) -> Tensor:
    """The part of each sample of ``x`` that lies along ``direction``."""
    product, square = ((a * direction).flatten(1).sum(1) for a in (x, direction))
    return (product / (square + 1e-8)).view(-1, *[1] * (x.ndim - 1)) * direction


NEUTRAL = Guidance()


@dataclass(frozen=True)
class GuidanceBySigma:
    """Different guidance at different noise levels.

    ``table`` holds pairs of an upper bound and what applies up to it; above all bounds the highest row applies.
    """

    table: tuple[tuple[float, Guidance], ...]

    def __post_init__(self):
        if not self.table:
            raise ValueError("The guidance table is empty; it needs at least one row, for example (1.0, Guidance()).")

    @property
    def needs_negative_context(self) -> bool:
        """Whether any row needs a negative prompt."""
        return any(row.needs_negative_context for row in self.rows)

    @property
    def rows(self) -> tuple[Guidance, ...]:
        """All that may apply at some noise level."""
        return tuple(guidance for _, guidance in self.table)

    def at(self, sigma: float) -> Guidance:
        """The row with the smallest bound that is not below ``sigma``."""
        rows = sorted(self.table, key=lambda row: row[0])
        return next((guidance for bound, guidance in rows if bound >= sigma), rows[-1][1])


AnyGuidance = Guidance | GuidanceBySigma


def passes_needed(
    guidance: Iterable[AnyGuidance], both_streams: bool = True, always_negative: bool = False
) -> list[str]:
    """The passes that a step with the ``guidance`` of its streams needs at most, in the official order."""
    rows = [row for each in guidance for row in each.rows]
    needed = {
        "cond": True,
        "negative": always_negative or any(row.needs_negative for row in rows),
        "perturbed": any(row.needs_perturbed for row in rows),
        "isolated": both_streams and any(row.needs_isolated for row in rows),
    }
    return [name for name, is_needed in needed.items() if is_needed]
