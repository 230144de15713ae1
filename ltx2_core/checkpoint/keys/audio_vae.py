"""The audio encoder and decoder."""

from .table import WEIGHTS, Keys, under

STATISTICS = {
    "per_channel_statistics.mean-of-means": "statistics.mean",
    "per_channel_statistics.std-of-means": "statistics.std",
}

BLOCK = {
    **under("conv1.conv", "conv1", WEIGHTS),
    **under("conv2.conv", "conv2", WEIGHTS),
    **under("nin_shortcut.conv", "shortcut", WEIGHTS),
}

ENDS = {
    **under("conv_in.conv", "conv_in", WEIGHTS),
    **under("mid.block_1", "middle.0", BLOCK),
    **under("mid.block_2", "middle.1", BLOCK),
    **under("conv_out.conv", "conv_out", WEIGHTS),
}

DOWN = {
    **under("down.{}.block.{}", "levels.{}.blocks.{}", BLOCK),
    **under("down.{}.downsample.conv", "levels.{}.resize", WEIGHTS),
}

UP = {
    **under("up.{}.block.{}", "levels.{}.blocks.{}", BLOCK),
    **under("up.{}.upsample.conv.conv", "levels.{}.resize", WEIGHTS),
}

AUDIO_ENCODER = Keys(under("encoder", "", ENDS | DOWN) | STATISTICS, prefixes=("audio_vae.",))
AUDIO_DECODER = Keys(under("decoder", "", ENDS | UP) | STATISTICS, prefixes=("audio_vae.",))
