"""Single files of tiny models, beside the whole ones of ``ltx2_core.tiny``: a split set, upscalers, decoders."""

import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.checkpoint.keys.text import DURATION_HEAD
from ltx2_core.checkpoint.keys.upscaler import RATIONAL_UPSCALER, UPSCALER
from ltx2_core.text.duration import DurationHead, DurationHeadConfig
from ltx2_core.tiny import config, save, weights_of, write
from ltx2_core.upscaler import Upscaler, UpscalerConfig

DIFFUSION_VAE = {
    "_class_name": "CausalDiffusionVAE",
    "model_output_type": "x0",
    "encoder": {
        "blocks": config("2.5")["vae"]["encoder_blocks"],
        "out_channels": 128,
        "dims": 3,
        "spatial_padding_mode": "zeros",
    },
    "decoder": {
        "in_channels": 128,
        "head_dim": 16,
        "t_emb_dim": 24,
        "stage_channels": [64, 32, 16, 16, 16],
        "stage_depths": [1, 1, 1, 1, 1],
        "stage_kernels": [[3, 3, 3]] * 5,
        "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 1]],
        "timestep_scale_multiplier": 1000.0,
        "default_num_inference_steps": 1,
    },
}
ASSETS = ("chat_template.jinja", "generation_config.json", "processor_config.json", "tokenizer_config.json")


def write_split(folder: str | Path, kind: str = "dev") -> list[Path]:
    """Write a set of 2.5 as it is published: one file for each part, in the folders that ComfyUI has for them.

    ``kind``, "dev" or "distilled", is in the name of the transformer. Returns the transformer, the text encoder with
    projection and tokenizer, the video VAE and the audio VAE.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory() as place:
        checkpoint, _, gemma = write(place, "2.5")
        # Mapped, they would keep Windows from removing the folder.
        whole, metadata = load(checkpoint.read_bytes()), TensorFile(checkpoint).metadata
        packed, header = load(gemma.read_bytes()), TensorFile(gemma).metadata
    sections = json.loads(metadata["config"])
    projection = {key: whole.pop(key) for key in list(whole) if key.startswith("text_embedding_projection.")}
    assets = {f"hf_asset__{name}": torch.tensor([*b"{}"], dtype=torch.uint8) for name in ASSETS}
    parts = (
        ("diffusion_models/ltx-2.5-tiny-{}-transformer", "model.", ("transformer",)),
        ("vae/ltx-2.5-tiny-video-vae-conv", "vae.", ("vae",)),
        ("vae/ltx-2.5-tiny-audio-vae", ("audio_vae.", "vocoder."), ("audio_vae", "vocoder")),
    )
    paths = []
    for name, prefix, own in parts:
        path = folder / f"{name.format(kind)}.safetensors"
        about = {section: sections[section] if section in own else None for section in sections}
        tensors = {key.removeprefix("vae."): value for key, value in whole.items() if key.startswith(prefix)}
        save(tensors, path, metadata | {"config": json.dumps(about)})
        paths.append(path)
    encoder = folder / "text_encoders" / "gemma4-tiny-with-proj-ltx-2.5.safetensors"
    save(packed | projection | assets, encoder, header)
    return [paths[0], encoder, *paths[1:]]


def write_duration_head(folder: str | Path) -> Path:
    """Write a duration head for the tiny 2.5, in the folder that ComfyUI has for it."""
    widths = config("2.5")["transformer"]
    sizes = DurationHeadConfig(widths["cross_attention_dim"], widths["audio_cross_attention_dim"], 16, 2, 4, 20)
    tensors = weights_of(partial(DurationHead, sizes), DURATION_HEAD.official, seed=0)
    path = Path(folder) / "model_patches" / "ltx-2.5-tiny-duration-head.safetensors"
    section = {"transformer": {"cross_attention_dim": sizes.video_width}, "duration_head": {"num_pooler_heads": 4}}
    save(tensors, path, {"config": json.dumps(section)})
    return path


def write_upscaler(folder: str | Path, kind: Mapping[str, Any] | None = None) -> Path:
    """Write an upscaler of the miniatures' latents; ``kind`` is what its config says of scales, None for 2 in space."""
    section = {"in_channels": 128, "dims": 3, "mid_channels": 32, "num_blocks_per_stage": 1} | dict(kind or {})
    upscaler_config = UpscalerConfig.from_json(section)
    keys = RATIONAL_UPSCALER if upscaler_config.rational else UPSCALER
    tensors = weights_of(partial(Upscaler, upscaler_config), keys.official, seed=0)
    path = Path(folder) / "ltx-upscaler-tiny.safetensors"
    save(tensors, path, {"config": json.dumps(section)})
    return path


def write_diffusion_vae(folder: str | Path) -> Path:
    """Write a video VAE whose decoder is a diffusion model, as a file of its own as LTX-2.5 has it."""
    sections, tensors = {"vae": DIFFUSION_VAE}, dict[str, torch.Tensor]()
    for name in ("video_encoder", "video_decoder"):
        component = COMPONENTS[name]
        keys = component.variant_for(sections).keys
        own = weights_of(partial(component.make, sections, {}), keys.official, seed=0)
        tensors |= {key.removeprefix("vae."): value for key, value in own.items()}
    path = Path(folder) / "ltx-2.5-video-vae-tiny.safetensors"
    save(tensors, path, {"config": json.dumps(sections)})
    return path
