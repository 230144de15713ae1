"""Runs inside ComfyUI's own Python: what is left when a disk or the RAM is full.

Prints as JSON the files that saving a clip left and what was said, and what the host has on its cards before and after
a node whose memory ended, and what that node said.
"""

import json
import resource

from inside import folder, part

# The line above makes the host importable.
# isort: split
import comfy.model_management as mm
import comfy.model_patcher
import torch
from comfy_api.latest import Types, io

values, host = part("nodes.values"), part("nodes.host")

frames = torch.rand(33, 256, 256, 3, generator=torch.Generator().manual_seed(0))
video = values.GeneratedVideo(Types.VideoComponents(images=frames, audio=None, frame_rate=24))
with_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, with_limit[1]))
try:
    video.save_to(str(folder / "clip.mp4"))
    saved = ""
except OSError as error:
    saved = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, with_limit)
left = [path.name for path in folder.iterdir() if path.is_file()]


class Full(io.ComfyNode):
    """A node that needs more RAM than there is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Full", inputs=[], outputs=[])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        raise MemoryError


patcher = comfy.model_patcher.ModelPatcher(torch.nn.Linear(4, 4), mm.get_torch_device(), torch.device("cpu"))
mm.load_models_gpu([patcher])
counts = [len(mm.current_loaded_models)]
try:
    host.guarded(Full, {}).execute()
    ended = ""
except MemoryError as error:
    ended = str(error)
counts.append(len(mm.current_loaded_models))
print(json.dumps({"left": left, "saved": saved, "ended": ended, "counts": counts}))
