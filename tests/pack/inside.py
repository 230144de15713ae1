"""Runs inside ComfyUI's own Python, and scripts of this folder in it: they get the pack under a name of its own.

Arguments: the folder of the pack, that of ComfyUI, one of its own, then what ComfyUI is started with. Each line that
comes names a script and a folder of its own; it runs in a copy of this process, since the host takes 10 s to import.
"""

import faulthandler
import importlib
import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

PACK, COMFY, FOLDER, *OPTIONS = sys.argv[1:]
sys.path.insert(0, COMFY)
sys.argv[1:] = OPTIONS

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management as mm  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
import utils.extra_config  # noqa: E402, F401  # as the host does first: what comes later may bring "utils" of its own
from comfy.cli_args import args  # noqa: E402
from server import PromptServer  # noqa: E402

PromptServer.instance = SimpleNamespace(client_id=None)  # nobody looks

_spec = importlib.util.spec_from_file_location("ltx2_av", f"{PACK}/__init__.py", submodule_search_locations=[PACK])
_pack = importlib.util.module_from_spec(_spec)
sys.modules["ltx2_av"] = _pack
_spec.loader.exec_module(_pack)

folder = Path(FOLDER)
CARD = torch.device("cpu", 0)  # the host's own CPU device has no number
SECONDS = 900  # for a script


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
    host.shares_ram = lambda device: False
    host.machine = lambda device: part("ltx2_core.memory.machine").CARDS["RTX 4070"]
    placement = part("ltx2_core.memory.placement")
    placement.KERNEL_WORKSPACE_BYTES, placement.FRAGMENTED_SHARE = kernel_workspace, 0.0


def run(script: str, own: str) -> None:
    """Run ``script`` with a folder of its own, where the host looks for models, too."""
    global folder
    folder, args.base_directory, os.environ["LTX2_CACHE"] = Path(own), own, f"{own}/cache"
    lists = folder_paths.folder_names_and_paths
    importlib.reload(folder_paths)
    folder_paths.folder_names_and_paths = lists | folder_paths.folder_names_and_paths  # the pack has lists of its own
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    runpy.run_path(str(Path(__file__).with_name(script)), run_name="__main__")


if __name__ == "__main__":
    sys.modules["inside"] = sys.modules[__name__]
    while line := sys.stdin.readline():
        child = os.fork() if hasattr(os, "fork") else 0
        if not child:
            run(*json.loads(line))
            break
        os.waitpid(child, 0)
        print("ended", flush=True)
