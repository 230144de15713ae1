"""The vocoders: that of 2.0 lies directly under the prefix, since 2.3 there are two and a mel front end."""

from .table import WEIGHTS, Keys, under

CONVOLUTIONS = {
    **under("conv_pre", "conv_pre", WEIGHTS),
    **under("ups.{}", "ups.{}", WEIGHTS),
    **under("resblocks.{}.convs1.{}", "blocks.{}.convs1.{}", WEIGHTS),
    **under("resblocks.{}.convs2.{}", "blocks.{}.convs2.{}", WEIGHTS),
    **under("conv_post", "conv_post", WEIGHTS),
}

SNAKE = {
    "act.alpha": "alpha",
    "act.beta": "beta",
    "upsample.filter": "up",
    "downsample.lowpass.filter": "down",
}

SNAKES = {
    **under("resblocks.{}.acts1.{}", "blocks.{}.acts1.{}", SNAKE),
    **under("resblocks.{}.acts2.{}", "blocks.{}.acts2.{}", SNAKE),
    **under("act_post", "act_post", SNAKE),
}

MEL = {
    "stft_fn.forward_basis": "fourier",
    "stft_fn.inverse_basis": None,
    "mel_basis": "bank",
}

VOCODER = Keys(
    {
        **CONVOLUTIONS,
        **under("vocoder", "low", CONVOLUTIONS | SNAKES),
        **under("bwe_generator", "high", CONVOLUTIONS | SNAKES),
        **under("mel_stft", "mel", MEL),
    },
    prefixes=("vocoder.",),
)
