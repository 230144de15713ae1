"""The architecture of the transformer, read from a checkpoint's own JSON (see README.md, "Config")."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import CheckpointError
from ..errors.foreign import Fields, shown

WIDEST = 2**16  # channels that a config may name; a hundred times what any release has would not fit a card
MOST_LAYERS = 256
ROPE_TYPES = ("split", "interleaved")

# What the official reader insists on; any other value names a network that nobody has published.
REQUIRED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "av_cross_ada_norm": True,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "num_embeds_ada_norm": 1000,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "positional_embedding_type": "rope",
    "qk_norm": "rms_norm",
    "share_ff": False,
    "standardization_norm": "rms_norm",
    "upcast_attention": False,
    "use_audio_video_cross_attention": True,
    "use_linear_projection": False,
    "use_middle_indices_grid": True,
    "use_prompt_adaln_single": True,
}


@dataclass(frozen=True)
class StreamConfig:
    """The numbers in which video and audio differ."""

    channels_in: int
    channels_out: int
    heads: int
    head_dim: int
    context_width: int  # of the text context in the blocks
    max_positions: tuple[float, ...]  # one per axis: seconds, then pixels
    feed_forward_bias: bool  # in the blocks; False for the video of 2.5
    marks_keyframes: bool = False  # 2.5: tokens of latents that stand for one frame carry a learned mark

    @property
    def width(self) -> int:
        """Channels D of a token inside the transformer."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and variants of the transformer."""

    video: StreamConfig
    audio: StreamConfig
    layers: int
    caption_width: int | None  # of contexts that the transformer projects itself (2.0); None = contexts fit (2.3)
    gated: bool  # per-head gates in all attentions
    text_modulation: bool  # nine modulation rows instead of six, and a modulated text context
    sigma_scale: float  # sigma in 0..1 to the argument of the timestep embedding
    cross_gate_scale: float  # the same for the gates between the streams
    rope_theta: float
    rope_interleaved: bool
    rope_double: bool
    eps: float

    @property
    def modulation_rows(self) -> int:
        """Rows of a block's modulation table: shift, scale and gate for each layer that is modulated."""
        return 9 if self.text_modulation else 6

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> "TransformerConfig":
        """Read the ``transformer`` section of a checkpoint's config.

        Absent keys take the defaults of the official reader.

        Raises:
            CheckpointError: The section describes an architecture that this package does not run.
        """
        fields = Fields.of(section, "The config section transformer")
        for key, expected in REQUIRED.items():
            if (stated := fields.content.get(key, expected)) != expected:
                raise CheckpointError(
                    f"The transformer's config says {key} = {shown(stated)}; released LTX-2 models have {expected!r}, "
                    "and no others are run here: choose one of these."
                )
        projects_captions = not fields.flag("caption_proj_before_connector", False)
        return cls(
            video=replace(
                _stream(fields, "", (128, 4096), (20.0, 2048.0, 2048.0)),
                marks_keyframes=fields.flag("use_keyframes_abs_pos_embedding", False),
            ),
            audio=_stream(fields, "audio_", (64, 2048), (20.0,)),
            layers=layers_of(fields),
            caption_width=fields.whole("caption_channels", most=WIDEST) if projects_captions else None,
            gated=fields.flag("apply_gated_attention", False),
            text_modulation=fields.flag("cross_attention_adaln", False),
            sigma_scale=fields.number("timestep_scale_multiplier", 1000, least=1e-3, most=1e6),
            cross_gate_scale=fields.number("av_ca_timestep_scale_multiplier", 1, least=1e-3, most=1e6),
            rope_theta=fields.number("positional_embedding_theta", 10000.0, least=1),
            rope_interleaved=fields.word("rope_type", "split", ROPE_TYPES) == "interleaved",
            rope_double=fields.word("frequencies_precision", "float32") == "float64",
            eps=fields.number("norm_eps", 1e-6, least=1e-12, most=0.1),
        )


def layers_of(section: Fields | Mapping[str, Any]) -> int:
    """Return how many blocks a transformer's section names. Raises CheckpointError if that is no number of blocks."""
    return Fields.of(section, "The config section transformer").whole("num_layers", 48, most=MOST_LAYERS)


def _stream(fields: Fields, prefix: str, sizes: tuple[int, int], positions: tuple[float, ...]) -> StreamConfig:
    """One stream, whose keys begin with ``prefix``; ``sizes`` are the defaults of head and context."""
    head_dim = fields.whole(f"{prefix}attention_head_dim", sizes[0], least=2, most=WIDEST)
    if head_dim % 2:
        raise fields.refusal(f"{prefix}attention_head_dim", "an even number")
    max_positions = fields.numbers(f"{prefix}positional_embedding_max_pos", positions, least=1e-3)
    if len(max_positions) != len(positions):
        raise fields.refusal(f"{prefix}positional_embedding_max_pos", f"a list of {len(positions)}")
    return StreamConfig(
        channels_in=fields.whole(f"{prefix}in_channels", 128, most=WIDEST),
        channels_out=fields.whole(f"{prefix}out_channels", 128, most=WIDEST),
        heads=fields.whole(f"{prefix}num_attention_heads", 32, most=1024),
        head_dim=head_dim,
        context_width=fields.whole(f"{prefix}cross_attention_dim", sizes[1], most=WIDEST),
        max_positions=max_positions,
        feed_forward_bias=fields.flag(f"{prefix}ff_bias", True),
    )
