"""Runs inside ComfyUI's own Python, as after a restart: pictures of a latent that lies in the input folder.

They are written beside it as an array (F, H, W, 3), 0..255. Prints nothing of them.
"""

import json
from types import SimpleNamespace

from inside import folder, part

# The line above makes the host importable.
# isort: split
import numpy as np
import torch

nodes = {each.define_schema().node_id: each for each in part("nodes").NODES}
for each in nodes.values():
    each.hidden = SimpleNamespace(unique_id=None)
with torch.inference_mode():
    (model,) = nodes["LTX2AVLoadModel"].execute(checkpoint="miniature (built in)").args
    (latent, *_) = nodes["LTX2AVLoadLatent"].execute(file="input/takes/moved_av_latent.safetensors").args
    (frames, *_) = nodes["LTX2AVVideoDecode"].execute(model=model, latent=latent).args
np.save(folder / "pictures.npy", (255 * frames.numpy()).clip(0, 255).astype(np.uint8))
print(json.dumps({}))
