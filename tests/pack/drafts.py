"""Runs inside ComfyUI's own Python: its decoder, with the weights of the file in the folder, decodes as ours.

Prints as JSON how far both lie apart, and how far the frames lie from each other at most.
"""

import json

from inside import folder, part

# The line above makes the host importable.
# isort: split
import comfy.sd
import comfy.utils
import torch

checkpoint, engine = part("ltx2_core.checkpoint"), part("nodes.engine")
decode = part("ltx2_core.pipeline.decode_video")
latent = torch.randn(1, 128, 5, 3, 2, generator=torch.Generator().manual_seed(0))
(file,) = folder.glob("*.safetensors")

state, metadata = comfy.utils.load_torch_file(str(file), return_metadata=True)
vae = comfy.sd.VAE(sd=state, metadata=metadata, dtype=torch.float32)
theirs = vae.process_output(vae.first_stage_model.float().decode(latent))[0].movedim(0, -1).clamp(0, 1)
models = checkpoint.open_models("miniature", video_vae=file)
ours = decode.DecodeVideo((5, 3, 2)).collect(engine.HostEngine(engine.LoadedModel(models, "fp32")), latent)[0]
print(json.dumps({"away": float((theirs - ours).abs().max()), "range": float(ours.std()), "shape": [*theirs.shape]}))
