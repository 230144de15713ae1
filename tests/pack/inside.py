"""For scripts that run inside ComfyUI's own Python: the pack under a name of its own, and a pretended card.

Arguments of such a script: the folder of the pack, that of ComfyUI, one of its own, then what ComfyUI is started with.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

PACK, COMFY, FOLDER, *OPTIONS = sys.argv[1:]
sys.path.insert(0, COMFY)
sys.argv[1:] = OPTIONS

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management as mm  # noqa: E402
import torch  # noqa: E402
import utils.extra_config  # noqa: E402, F401  # as the host does first: what comes later may bring "utils" of its own
from server import PromptServer  # noqa: E402

PromptServer.instance = SimpleNamespace(client_id=None)  # nobody looks

_spec = importlib.util.spec_from_file_location("ltx2_av", f"{PACK}/__init__.py", submodule_search_locations=[PACK])
_pack = importlib.util.module_from_spec(_spec)
sys.modules["ltx2_av"] = _pack
_spec.loader.exec_module(_pack)

folder = Path(FOLDER)
CARD = torch.device("cpu", 0)  # the host's own CPU device has no number


def part(name: str) -> ModuleType:
    """Return a module of the pack."""
    return importlib.import_module(f"ltx2_av.{name}")


def pretend_card(nbytes: int, loaded_bytes, kernel_workspace: int = 0) -> None:
    """Let the host and the pack take the CPU for a card with so much memory, of which ``loaded_bytes()`` is taken."""

    def free(dev=None, torch_free_too=False):
        left = nbytes - loaded_bytes()
        return (left, left) if torch_free_too else left

    mm.get_free_memory = free
    mm.is_device_cpu = lambda device: device == torch.device("cpu")
    mm.minimum_inference_memory = mm.extra_reserved_memory = lambda: 0
    mm.MAX_PINNED_MEMORY = 2**40
    mm.vram_state, mm.lowvram_available = mm.VRAMState.NORMAL_VRAM, True
    mm.get_torch_device = lambda: CARD
    mm.soft_empty_cache = lambda force=False: None
    host = part("nodes.host")
    host.DEVICES = dict.fromkeys(host.DEVICES, lambda: CARD)
    host.machine = lambda device: part("ltx2_core.memory.machine").CARDS["RTX 4070"]
    placement = part("ltx2_core.memory.placement")
    placement.KERNEL_WORKSPACE_BYTES, placement.FRAGMENTED_SHARE = kernel_workspace, 0.0
