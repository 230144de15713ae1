"""The names of the video VAE's tensors (see ../README.md, "Keys")."""

from collections.abc import Mapping
from itertools import product

from .table import WEIGHTS, Keys, same, under

STATISTICS = {
    **under("per_channel_statistics", "statistics", {"mean-of-means": "mean", "std-of-means": "std"}),
    # Of training; some files carry them.
    "per_channel_statistics.mean-of-stds": None,
    "per_channel_statistics.mean-of-stds_over_std-of-means": None,
    "per_channel_statistics.channel": None,
}


def _half(name: str, blocks: str, more: Mapping[str, str | None] | None = None) -> Keys:
    rows = {
        **under("conv_in.conv", "conv_in", WEIGHTS),
        **under(f"{blocks}.{{}}.res_blocks.{{}}.conv1.conv", "blocks.{}.{}.conv1", WEIGHTS),
        **under(f"{blocks}.{{}}.res_blocks.{{}}.conv2.conv", "blocks.{}.{}.conv2", WEIGHTS),
        **under(f"{blocks}.{{}}.conv.conv", "blocks.{}.0.conv", WEIGHTS),
        **under("conv_out.conv", "conv_out", WEIGHTS),
        **(more or {}),
    }
    return Keys({**under(name, "", rows), **STATISTICS}, prefixes=("vae.", ""))


# Of decoders that were made smaller; the second name of the norm is that of files without ComfyUI's wrapper.
_PROJECTION = {
    **under("conv1.conv", "conv1", WEIGHTS),
    **under("conv2.conv", "conv2", WEIGHTS),
    **under("norm3.norm", "norm", WEIGHTS),
    **under("norm3", "norm", WEIGHTS),
    **under("conv_shortcut", "project", WEIGHTS),
}

VIDEO_ENCODER = _half("encoder", "down_blocks")
VIDEO_DECODER = _half("decoder", "up_blocks", under("up_blocks.{}", "blocks.{}.projected", _PROJECTION))

_LINEAR = {"attn.qkv": "attention.qkv", "attn.proj": "attention.out"}
_BLOCK = {
    **same(["norm1.weight", "norm2.weight"]),
    **{f"{theirs}.{leaf}": f"{ours}.{leaf}" for theirs, ours in _LINEAR.items() for leaf in WEIGHTS},
    "attn.q_norm.weight": "attention.q_norm.weight",
    "attn.k_norm.weight": "attention.k_norm.weight",
    **{f"mlp.w_{name}.weight": f"mlp.{name}.weight" for name in ("gate", "up", "down")},
    # Of old files: what a block adds is scaled by them.
    "gate_msa": "attention_gate",
    "gate_mlp": "mlp_gate",
}
_DIFFUSION_BLOCK = {
    **under("", "block", _BLOCK),
    **under("context_proj", "context", WEIGHTS),
    "gate_ctx": "context_gate",
    "scale_shift_table": "modulation",
}
_DIFFUSION = {
    **under("conv_in", "from_latent", WEIGHTS),
    **under("det_stages.{}.{}", "stages.{}.{}", _BLOCK),
    **under("upsamples.{}.proj", "upsamples.{}.linear", WEIGHTS),
    **under("t_embedder.mlp.0", "time.first", WEIGHTS),
    **under("t_embedder.mlp.2", "time.second", WEIGHTS),
    **under("shared_adaln.proj", "time.modulation", WEIGHTS),
    **under("conv_in_x_t", "from_pixels", WEIGHTS),
    **under("diff_blocks.{}", "diffusion.{}", _DIFFUSION_BLOCK),
    "norm_out.weight": "norm_out.weight",
    **under("conv_out", "to_pixels", WEIGHTS),
    "type_emb": "keyframe_mark",
}
# The heads of previews begin with "coarse_".
DIFFUSION_DECODER = Keys(
    {**under("decoder", "", _DIFFUSION), **STATISTICS}, prefixes=("vae.", ""), unwanted=("decoder.coarse_",)
)


def _tiny() -> Keys:
    """The names of taeltx, whose layers are numbered through; its encoder is known, and not wanted."""
    rows: dict[str, str | None] = {**under("1", "from_latent", WEIGHTS), **under("22", "to_pixels", WEIGHTS)}
    for stage in range(3):
        first = 3 + 6 * stage
        for block, conv in product(range(3), repeat=2):
            theirs, ours = f"{first + block}.conv.{2 * conv}", f"stages.{stage}.blocks.{block}.{conv}"
            rows |= under(theirs, ours, WEIGHTS)
        rows |= {f"{first + 4}.conv.weight": f"stages.{stage}.grow.weight"}
        rows |= {f"{first + 5}.weight": f"stages.{stage}.conv.weight"}
    encoder = [f"{layer}.{leaf}" for layer in ("{}", "{}.conv", "{}.conv.{}", "{}.skip") for leaf in WEIGHTS]
    return Keys({**under("decoder", "", rows), **{f"encoder.{name}": None for name in encoder}})


TINY_DECODER = _tiny()
