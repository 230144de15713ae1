"""Which machines compute the same bits: a fingerprint of a few fixed calculations.

Two machines with one fingerprint must make equal clips bit for bit. Elsewhere (another processor, another release of
PyTorch) sums are taken in another order, and only values that are nearly equal can be asked for.
"""

import hashlib
from collections.abc import Iterator
from functools import cache

import av
import torch
import torch.nn.functional as F
from torch import Tensor


@cache
def fingerprint() -> str:
    """Return a hash of the results of fixed float32 operations on one thread, with the versions of PyTorch and PyAV."""
    digest = hashlib.sha256(f"torch {torch.__version__} av {av.__version__}".encode())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for result in _results():
            digest.update(result.contiguous().numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    return digest.hexdigest()


@torch.inference_mode()
def _results() -> Iterator[Tensor]:
    """Yield the results of the operations a clip is made of, at sizes that take different paths in their libraries."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for rows, inner, columns in ((7, 33, 5), (45, 128, 96), (18, 256, 512)):
        yield random(rows, inner) @ random(inner, columns)
        yield F.linear(random(1, rows, inner), random(columns, inner), random(columns))
    for channels in (3, 16, 64):
        yield F.conv3d(random(1, channels, 3, 8, 12), random(16, channels, 3, 3, 3), random(16), padding=1)
        yield F.conv2d(random(1, channels, 9, 16), random(16, channels, 3, 3), random(16), padding=1)
        yield F.conv1d(random(1, channels, 200), random(16, channels, 7), random(16), padding=3)
        yield F.conv_transpose1d(random(1, channels, 60), random(channels, 8, 4), random(8), stride=2)
    for queries, keys in ((18, 18), (54, 130)):
        yield F.scaled_dot_product_attention(random(1, 4, queries, 32), random(1, 4, keys, 32), random(1, 4, keys, 32))
    x = random(64, 130)
    yield from (x.exp(), x.softmax(-1), x.sin(), x.tanh(), F.silu(x), F.gelu(x), x.std(1), x.norm(dim=1))
    yield F.interpolate(random(1, 3, 20, 24), size=(32, 48), mode="bilinear", antialias=True)
    yield torch.fft.rfft(random(4, 512)).abs()
