"""The names of the video VAE's tensors (see ../README.md, "Keys")."""

from .table import Keys, same, under

WEIGHTS = same(["weight", "bias"])
STATISTICS = {
    **under("per_channel_statistics", "statistics", {"mean-of-means": "mean", "std-of-means": "std"}),
    # Of training; some files carry them.
    "per_channel_statistics.mean-of-stds": None,
    "per_channel_statistics.mean-of-stds_over_std-of-means": None,
    "per_channel_statistics.channel": None,
}


def _half(name: str, blocks: str) -> Keys:
    rows = {
        **under("conv_in.conv", "conv_in", WEIGHTS),
        **under(f"{blocks}.{{}}.res_blocks.{{}}.conv1.conv", "blocks.{}.{}.conv1", WEIGHTS),
        **under(f"{blocks}.{{}}.res_blocks.{{}}.conv2.conv", "blocks.{}.{}.conv2", WEIGHTS),
        **under(f"{blocks}.{{}}.conv.conv", "blocks.{}.0.conv", WEIGHTS),
        **under("conv_out.conv", "conv_out", WEIGHTS),
    }
    return Keys({**under(name, "", rows), **STATISTICS}, prefixes=("vae.", ""))


VIDEO_ENCODER = _half("encoder", "down_blocks")
VIDEO_DECODER = _half("decoder", "up_blocks")
