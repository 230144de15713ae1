"""The architecture of the transformer, read from a checkpoint's own JSON (see README.md, "Config")."""

from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError

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
    def from_json(cls, section: dict[str, Any]) -> "TransformerConfig":
        """Read the ``transformer`` section of a checkpoint's config.

        Absent keys take the defaults of the official reader.

        Raises:
            CheckpointError: The section describes an architecture that this package does not run.
        """
        for key, expected in REQUIRED.items():
            if section.get(key, expected) != expected:
                raise CheckpointError(
                    f"The transformer's config says {key} = {section[key]!r}; LTX-2 has {expected!r}. "
                    "This is not an LTX-2 checkpoint."
                )
        if section.get("ff_bias", True) is not True or section.get("use_keyframes_abs_pos_embedding", False):
            raise CheckpointError("This is an LTX-2.5 transformer; this version of the pack runs LTX-2.0 and LTX-2.3.")
        projects_captions = not section.get("caption_proj_before_connector", False)
        return cls(
            video=StreamConfig(
                channels_in=section.get("in_channels", 128),
                channels_out=section.get("out_channels", 128),
                heads=section.get("num_attention_heads", 32),
                head_dim=section.get("attention_head_dim", 128),
                context_width=section.get("cross_attention_dim", 4096),
                max_positions=tuple(section.get("positional_embedding_max_pos", (20, 2048, 2048))),
            ),
            audio=StreamConfig(
                channels_in=section.get("audio_in_channels", 128),
                channels_out=section.get("audio_out_channels", 128),
                heads=section.get("audio_num_attention_heads", 32),
                head_dim=section.get("audio_attention_head_dim", 64),
                context_width=section.get("audio_cross_attention_dim", 2048),
                max_positions=tuple(section.get("audio_positional_embedding_max_pos", (20,))),
            ),
            layers=section.get("num_layers", 48),
            caption_width=section["caption_channels"] if projects_captions else None,
            gated=section.get("apply_gated_attention", False),
            text_modulation=section.get("cross_attention_adaln", False),
            sigma_scale=section.get("timestep_scale_multiplier", 1000),
            cross_gate_scale=section.get("av_ca_timestep_scale_multiplier", 1),
            rope_theta=section.get("positional_embedding_theta", 10000.0),
            rope_interleaved=section.get("rope_type", "split") == "interleaved",
            rope_double=section.get("frequencies_precision") == "float64",
            eps=section.get("norm_eps", 1e-6),
        )
