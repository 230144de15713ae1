"""Steering one stream by what changes when something is left out (paper, section on modality-aware guidance)."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """How strongly one stream follows its text, the other stream, and itself.

    Official convention: a ``scale`` of 1 is neutral; the paper's s_t and s_m are ``text_scale - 1`` and
    ``cross_modal_scale - 1``. The STG scale counts from 0.
    """

    text_scale: float = 1.0
    cross_modal_scale: float = 1.0
    stg_scale: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    rescale: float = 0.0

    @property
    def needs_negative(self) -> bool:
        return self.text_scale != 1

    @property
    def needs_perturbed(self) -> bool:
        return self.stg_scale != 0 and bool(self.stg_blocks)

    @property
    def needs_isolated(self) -> bool:
        return self.cross_modal_scale != 1

    def combine(
        self,
        cond: Tensor,
        negative: Tensor | None = None,
        perturbed: Tensor | None = None,
        isolated: Tensor | None = None,
    ) -> Tensor:
        """The guided x0 of one stream from the x0 of each pass, in float32 (spec: sampling.md, section 6).

        With neutral scales the result is ``cond`` bit for bit. The deviation for ``rescale`` is taken over each
        sample, so that a sample does not depend on its neighbours in a batch.
        """
        x = cond.float()
        guided = x
        if self.needs_negative and negative is not None:
            guided = guided + (self.text_scale - 1) * (x - negative.float())
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


NEUTRAL = Guidance()
