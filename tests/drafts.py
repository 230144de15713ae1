"""Files of tiny decoders, named as taeltx is, and of narrowed ones, named as PrunaVAED is; their weights are random."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ltx2_core.checkpoint import open_models
from ltx2_core.checkpoint.keys.video_vae import TINY_DECODER, VIDEO_DECODER
from ltx2_core.video_vae import TinyDecoder, TinyDecoderConfig, VideoDecoder, VideoVAEConfig

SMALL = TinyDecoderConfig(128, (16, 8, 8, 8), patch=4)


def small_decoder() -> TinyDecoder:
    """A tiny decoder of few channels whose frames are neither flat nor out of range."""
    torch.manual_seed(0)
    return TinyDecoder(SMALL).eval()


def write_draft(path: Path, decoder: TinyDecoder | None = None, **changed: torch.Tensor) -> Path:
    """Write one, with a tensor of its encoder beside it; ``changed`` are other tensors, by their names in the file."""
    weights = (decoder or small_decoder()).state_dict()
    state = {TINY_DECODER.official(name): value for name, value in weights.items()}
    save_file(state | {"encoder.0.weight": torch.zeros(64, 48, 3, 3)} | changed, path)
    return path


def narrowed_section() -> dict[str, Any]:
    """The miniature's section of the config with a projection from 48 channels to 24 in its decoder."""
    section = open_models("miniature").config["vae"]
    blocks = section["decoder_blocks"]
    return section | {"decoder_blocks": [*blocks[:3], ["res_x_y", {"multiplier": 2}], *blocks[3:]]}


def narrowed_decoder() -> VideoDecoder:
    """A decoder for the latents of the miniature with a projection in it."""
    torch.manual_seed(0)
    return VideoDecoder(VideoVAEConfig.from_json(narrowed_section())).eval()


def write_narrowed(path: Path, says: bool = True, norm: str = "norm3.norm") -> Path:
    """Write one; ``says`` whether it has a config, and ``norm`` how the norm of the projection is called."""
    state = {VIDEO_DECODER.official(name): value for name, value in narrowed_decoder().state_dict().items()}
    state = {name.removeprefix("vae.").replace("norm3.norm", norm): value for name, value in state.items()}
    save_file(state, path, {"config": json.dumps({"vae": narrowed_section()})} if says else None)
    return path
