"""The audio encoder and decoder."""

from .table import Keys, same, under

LAYER = same(["weight", "bias"])

STATISTICS = {
    "per_channel_statistics.mean-of-means": "statistics.mean",
    "per_channel_statistics.std-of-means": "statistics.std",
}

BLOCK = {
    **under("conv1.conv", "conv1", LAYER),
    **under("conv2.conv", "conv2", LAYER),
    **under("nin_shortcut.conv", "shortcut", LAYER),
}

ENDS = {
    **under("conv_in.conv", "conv_in", LAYER),
    **under("mid.block_1", "middle.0", BLOCK),
    **under("mid.block_2", "middle.1", BLOCK),
    **under("conv_out.conv", "conv_out", LAYER),
}

DOWN = {
    **under("down.{}.block.{}", "levels.{}.blocks.{}", BLOCK),
    **under("down.{}.downsample.conv", "levels.{}.resize", LAYER),
}

UP = {
    **under("up.{}.block.{}", "levels.{}.blocks.{}", BLOCK),
    **under("up.{}.upsample.conv.conv", "levels.{}.resize", LAYER),
}

AUDIO_ENCODER = Keys(under("encoder", "", ENDS | DOWN) | STATISTICS, prefixes=("audio_vae.",))
AUDIO_DECODER = Keys(under("decoder", "", ENDS | UP) | STATISTICS, prefixes=("audio_vae.",))
