"""Runs inside ComfyUI's own Python: its loader of checkpoints decodes as we do; fp16 that overflows is made in fp32.

In the folder are checkpoints. Prints as JSON how far the host's frames lie from ours, what was told, and what networks
compute in under flags of the host.
"""

import json

from inside import folder, part

# The line above makes the host importable.
# isort: split
import comfy.sd
import comfy.utils
import torch
from comfy.cli_args import args

checkpoint, engine = part("ltx2_core.checkpoint"), part("nodes.engine")
decode = part("ltx2_core.pipeline.decode_video")
latent = torch.randn(1, 128, 3, 3, 3, generator=torch.Generator().manual_seed(0))


def of_the_host(path) -> torch.Tensor:
    """Return the frames (F, H, W, 3) that the host's own loader and decoder make."""
    state, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    prefix = "vae."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return comfy.sd.VAE(sd=own, metadata=metadata, dtype=torch.float32).decode(latent)[0]


def of_the_pack(path, precision: str = "fp32"):
    """Return our frames (F, H, W, 3), and what was told."""
    owner = engine.HostEngine(engine.LoadedModel(checkpoint.open_models(path), precision))
    frames = decode.DecodeVideo(tuple(latent.shape[2:])).collect(owner, latent)[0]
    return frames, [str(finding) for finding in owner.findings]


def computed_in(role: str, flag: str) -> str:
    """Return the dtype of a network's work where the host was started with this flag."""
    setattr(args, flag, True)
    dtype = part("nodes.host").dtype_for(role, 1000)
    setattr(args, flag, False)
    return str(dtype).removeprefix("torch.")


flags = ("fp64_unet", "fp16_unet", "fp8_e4m3fn_unet", "bf16_text_enc", "fp16_text_enc", "fp16_vae")
roles = ("transformer", "text", "vae")
away, computed = {}, {flag: [computed_in(role, flag) for role in roles] for flag in flags}
for file in [*folder.glob("ltx-*.safetensors"), checkpoint.models.MINIATURE / "ltx2-mini.safetensors"]:
    away[file.name] = float((of_the_host(file) - of_the_pack(file)[0]).abs().max())
again, told = of_the_pack(folder / "loud.safetensors", "fp16")
wide = float((again - of_the_pack(folder / "loud.safetensors")[0]).abs().max())
print(json.dumps({"away": away, "wide": wide, "told": told, "computed": computed}))
