"""The names of an upscaler's tensors (see ../README.md, "Upscalers"); its files have no prefix."""

from .table import WEIGHTS, Keys, under

RESIDUAL = {
    name: name for name in (f"{layer}.{leaf}" for layer in ("conv1", "norm1", "conv2", "norm2") for leaf in WEIGHTS)
}

_ROWS = {
    **under("initial_conv", "conv_in", WEIGHTS),
    **under("initial_norm", "norm_in", WEIGHTS),
    **under("res_blocks.{}", "before.{}", RESIDUAL),
    **under("post_upsample_res_blocks.{}", "after.{}", RESIDUAL),
    **under("final_conv", "conv_out", WEIGHTS),
}

UPSCALER = Keys(_ROWS | under("upsampler.0", "upsample.conv", WEIGHTS))
RATIONAL_UPSCALER = Keys(
    _ROWS | under("upsampler", "upsample", under("conv", "conv", WEIGHTS) | {"blur_down.kernel": "blur"})
)
