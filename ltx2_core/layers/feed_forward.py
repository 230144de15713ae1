"""The channel mixer of a block."""

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Linear, tanh-approximated GELU, linear; (B, N, D) to (B, N, D) through 4 D channels."""

    def __init__(self, width: int, bias: bool = True):
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))
