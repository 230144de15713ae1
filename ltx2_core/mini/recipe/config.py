"""The architecture of the miniature, in the words of an official checkpoint's metadata (2.0)."""

from typing import Any

from ...checkpoint.components import COMPONENTS, ComponentNetwork

VERSION = "2.0.0"  # three numbers, or the official loader reads it as one

# Only these latent channels carry anything, the others are zero in every encoded clip. A narrow transformer then has
# less noise to remember, and the latents keep their usual shapes.
VIDEO_CHANNELS = 48  # of 128
AUDIO_CHANNELS = 2  # of 8, each with 16 bins
USED = {"video": VIDEO_CHANNELS, "audio": 16 * AUDIO_CHANNELS}  # of the 128 features of a token

TRANSFORMER = {
    "_class_name": "AVTransformer3DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 32,
    "attention_type": "default",
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 64,
    "audio_num_attention_heads": 4,
    "audio_out_channels": 128,
    "audio_positional_embedding_max_pos": [20],
    "av_ca_timestep_scale_multiplier": 1000.0,
    "av_cross_ada_norm": True,
    "caption_channels": 64,
    "causal_temporal_positioning": True,
    "connector_attention_head_dim": 16,
    "connector_norm_output": True,
    "connector_num_attention_heads": 4,
    "connector_num_layers": 2,
    "connector_num_learnable_registers": 128,
    "connector_positional_embedding_max_pos": [4096],
    "cross_attention_dim": 128,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "dropout": 0.0,
    "frequencies_precision": "float64",
    "in_channels": 128,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "num_attention_heads": 4,
    "num_embeds_ada_norm": 1000,
    "num_layers": 4,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 128,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "positional_embedding_theta": 10000.0,
    "positional_embedding_type": "rope",
    "qk_norm": "rms_norm",
    "rope_type": "split",
    "share_ff": False,
    "standardization_norm": "rms_norm",
    "timestep_scale_multiplier": 1000,
    "upcast_attention": False,
    "use_audio_video_cross_attention": True,
    "use_embeddings_connector": True,
    "use_linear_projection": False,
    "use_middle_indices_grid": True,
}

VAE = {
    "_class_name": "CausalVideoAutoencoder",
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "encoder_base_channels": 128,
    "decoder_base_channels": 6,  # times the product of all multipliers, which ltx-core 1.0.0 takes to be 8
    "encoder_blocks": [["compress_all_res", {"multiplier": 1}]] * 3,
    "decoder_blocks": [  # from the pixels inwards
        ["compress_all", {"residual": False, "multiplier": 4}],
        ["res_x", {"num_layers": 2, "inject_noise": False}],
        ["compress_all", {"residual": False, "multiplier": 1}],
        ["res_x", {"num_layers": 3, "inject_noise": False}],
        ["compress_all", {"residual": False, "multiplier": 2}],
        # ComfyUI knows a decoder by this one. The shipped weights are older: there it is zero and adds nothing.
        ["res_x", {"num_layers": 1, "inject_noise": False}],
    ],
    "patch_size": 4,
    "norm_layer": "pixel_norm",
    "latent_log_var": "uniform",
    "causal_decoder": False,
    "timestep_conditioning": False,
    "use_quant_conv": False,
    "normalize_latent_channels": False,
    "scaling_factor": 1.0,
}

AUDIO_VAE: dict[str, Any] = {
    "model": {
        "params": {
            "embed_dim": 8,
            "sampling_rate": 16000,
            "ddconfig": {
                "attn_resolutions": [],
                "causality_axis": "height",
                "ch": 128,  # the official reader sizes the latent's statistics, 8 x 16, by this number
                "ch_mult": [1, 1, 1],
                "double_z": True,
                "downsample_time": False,
                "dropout": 0.0,
                "in_channels": 2,
                "mel_bins": 64,
                "mid_block_add_attention": False,
                "norm_type": "pixel",
                "num_res_blocks": 0,  # in the encoder; the decoder has one more per level
                "out_ch": 2,
                "resolution": 256,
                "z_channels": 8,
            },
        }
    },
    "preprocessing": {
        "audio": {
            "causal_padding": 3,
            "duration": 5.12,
            "max_wav_value": 32768.0,
            "sampling_rate": 16000,
            "stereo": True,
        },
        "mel": {"mel_fmax": 8000, "mel_fmin": 0, "n_mel_channels": 64},
        "stft": {"causal": True, "filter_length": 1024, "hop_length": 160, "win_length": 1024},
    },
}

VOCODER = {
    "resblock": "1",
    "resblock_dilation_sizes": [[1, 3, 5]],
    "resblock_kernel_sizes": [3],
    "stereo": True,
    "upsample_initial_channel": 64,
    "upsample_kernel_sizes": [16, 15, 8, 4],
    "upsample_rates": [6, 5, 4, 2],
}

SCHEDULER = {
    "_class_name": "RectifiedFlowScheduler",
    "_diffusers_version": "0.25.1",
    "base_resolution": None,
    "num_train_timesteps": 1000,
    "sampler": "LinearQuadratic",
    "shifting": None,
}

CONFIG: dict[str, Any] = {
    "transformer": TRANSFORMER,
    "vae": VAE,
    "audio_vae": AUDIO_VAE,
    "vocoder": VOCODER,
    "scheduler": SCHEDULER,
}

Layer = Any  # of a network, of the class that the recipe knows; type checkers cannot see it in a list of modules


def new(component: str) -> ComponentNetwork:
    """Make one of the networks, its weights not set yet."""
    return COMPONENTS[component].make(CONFIG, {})
