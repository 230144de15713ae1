"""Runs inside ComfyUI's own Python: its quantised layers take the matrices of files that ``convert`` has written.

In the folder are files named by their format. Prints as JSON, for each format that this ComfyUI knows, how many layers
it took, and how far at most its numbers lie from ours.
"""

import json

from inside import folder, part

# The line above makes the host importable.
# isort: split
import comfy.ops
import comfy.quant_ops
import comfy.utils
import torch

files, quantization = part("ltx2_core.checkpoint.files"), part("ltx2_core.quantization")
PREFIX = "model.diffusion_model."
operations = comfy.ops.mixed_precision_ops({"mixed_ops": True}, torch.bfloat16)


def of_the_host(state: dict, module: str, shape: tuple[int, int]) -> torch.Tensor:
    """Return the matrix (out, in) of a layer of the host, which has to take every tensor of it."""
    layer = operations.Linear(shape[1], shape[0], bias=True, dtype=torch.bfloat16)
    own = {name.removeprefix(module): value for name, value in state.items() if name.startswith(module)}
    left = layer.load_state_dict(own, strict=False)
    assert not left.missing_keys and not left.unexpected_keys, left
    return layer.weight.dequantize().detach().float()


report = {}
for path in folder.glob("*.safetensors"):
    file, away = files.TensorFile(path), []
    state = comfy.utils.load_torch_file(str(path))
    weights = quantization.stored_weights({key: file.get(key) for key in file.entries})
    for name, stored in weights.items():
        if (
            format := quantization.find_format(stored)
        ) is not None and stored.format_name in comfy.quant_ops.QUANT_ALGOS:
            ours = format.dequantize(stored, file.shape(name), torch.float32)
            host = of_the_host(state, name.removesuffix("weight"), file.shape(name))
            away.append(float((host - ours).norm() / ours.norm()))
    if away:
        assert comfy.utils.detect_layer_quantization(state, PREFIX) == {"mixed_ops": True}
        report[path.stem] = {"layers": len(away), "away": max(away)}
print(json.dumps(report))
