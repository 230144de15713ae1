"""All that is said to ComfyUI: where models lie, who may use the card, how far we are, and whether to stop."""

import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import comfyui_version
import folder_paths
import torch
from aiohttp import web
from comfy.nested_tensor import NestedTensor
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer
from server import nodes as host_nodes
from torch import Tensor

from ..ltx2_core.checkpoint.listed import check_inside, file_below, files_below, path_inside
from ..ltx2_core.conditioning.sockets import Kinds, check_inputs, check_written
from ..ltx2_core.errors import LTX2Error, MissingFileError, SettingError, for_page, page_text, plain_record, stoppable
from ..ltx2_core.errors.files import writing
from ..ltx2_core.fields import check_output_name
from ..ltx2_core.media.exr import is_exr
from ..ltx2_core.media.notes import VERSION, marked
from ..ltx2_core.media.write import place_files
from ..ltx2_core.memory.machine import free_of, shares_ram
from ..ltx2_core.memory.pinned import PinnedMemory
from ..ltx2_core.memory.placement import UNLIMITED, Room
from ..ltx2_core.memory.ram import free_ram, pinnable, ram
from ..ltx2_core.pipeline.benchmark import software_versions
from ..ltx2_core.pipeline.engines.hardware import current_machine as machine
from ..ltx2_core.pipeline.engines.hardware import other_devices_named
from ..ltx2_core.pipeline.messages import Messages
from ..ltx2_core.pipeline.plan import Plan
from ..ltx2_core.pipeline.precision import clean_inference
from ..ltx2_core.pipeline.preview import PreviewWishes
from ..ltx2_core.pipeline.sketch import as_image

log = logging.getLogger("ltx2-av")
log.addFilter(plain_record)

# ---------------------------------------------------------------------------------------------------------- model files

READABLE = (".safetensors", ".sft", ".gguf")

# The host lists no GGUF files. Packs that read them list the same folders again, under these names, and so do we.
GGUF_LISTS = {"diffusion_models": "unet_gguf", "text_encoders": "clip_gguf"}
for _kind, _again in GGUF_LISTS.items():
    folder_paths.folder_names_and_paths.setdefault(_again, (folder_paths.folder_names_and_paths[_kind][0], {".gguf"}))


def model_files(*kinds: str) -> list[str]:
    """Return the names of the files that we can read in these model folders, each name once."""
    lists = [each for kind in kinds for each in (kind, GGUF_LISTS.get(kind)) if each]
    names = (name for each in lists for name in folder_paths.get_filename_list(each))
    return list(dict.fromkeys(name for name in names if name.lower().endswith(READABLE)))


def model_file(name: str, *kinds: str) -> Path:
    """Return the path of a file that ``model_files`` named. Raises SettingError for one outside these folders."""
    check_inside(name, *kinds)
    for kind in kinds:
        if path := folder_paths.get_full_path(kind, name):
            return Path(path)
    raise MissingFileError(f"{name} is no longer in {' or '.join(kinds)}; put it back, or choose another file.")


def model_folders(mark: str, *kinds: str) -> list[str]:
    """Return the names of folders that hold the file ``mark`` beside weights, or above them, as Hugging Face's do."""
    parents = dict.fromkeys(str(parent) for name in model_files(*kinds) for parent in Path(name).parents)
    return [name for name in parents if name != "." and _folder(name, mark, kinds)]


def model_path(name: str, mark: str, *kinds: str) -> Path:
    """Return the path of a folder that ``model_folders`` named, or of a file that ``model_files`` did."""
    return _folder(name, mark, kinds) or model_file(name, *kinds)


def _folder(name: str, mark: str, kinds: Sequence[str]) -> Path | None:
    inside = os.path.relpath(os.path.join(os.sep, name), os.sep)  # whatever the workflow says, below the model folder
    paths = (Path(root, inside) for kind in kinds for root in folder_paths.get_folder_paths(kind))
    return next((path for path in paths if (path / mark).is_file()), None)


def light_files() -> list[str]:
    """Return the names of EXR files, and of folders with such files, in the input folder."""
    return sorted(each.name for each in Path(folder_paths.get_input_directory()).iterdir() if is_exr(each))


def input_file(name: str) -> Path:
    """Return the path of a file or folder in the input folder. Raises SettingError for what lies outside of it."""
    return path_inside(folder_paths.get_input_directory(), name, "input")


def output_file(prefix: str, suffix: str, size: Sequence[int]) -> Path:
    """Return a new path below the output folder, named as the host does: ``size`` is its %width% and %height%."""
    prefix = check_output_name(prefix)
    with writing(prefix):
        folder, name, number, *_ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory(), *size)
    return Path(folder, f"{name}_{number:05}_{suffix}")


KEPT = {"output": folder_paths.get_output_directory, "input": folder_paths.get_input_directory}


def kept_files(suffix: str) -> list[str]:
    """Return the files below the output and the input folder whose names end so, such as output/clip_00001_x.json."""
    return files_below({kind: root() for kind, root in KEPT.items()}, suffix)


def kept_file(name: str) -> Path:
    """Return the path of a file that ``kept_files`` named. Raises SettingError for what lies outside these folders."""
    return file_below({kind: root() for kind, root in KEPT.items()}, name)


def graph_tags(hidden: io.HiddenHolder) -> dict[str, str]:
    """Return what a file says of its graph, as the host writes it, unless its user has switched that off."""
    if comfy.cli_args.args.disable_metadata:
        return marked({})
    parts = {"prompt": hidden.prompt} | (hidden.extra_pnginfo or {})
    return marked({name: json.dumps(part) for name, part in parts.items() if part is not None})


PACK = Path(__file__).parents[1]
SERVED = {"extensions": PACK / "js", "workflow_templates": PACK / "workflows"}


def check_alone() -> None:
    """Raise SettingError if the host has these nodes from another folder; then the browser gets nothing of ours."""
    if first := host_nodes.NODE_CLASS_MAPPINGS.get("LTX2AVSample"):
        host_nodes.EXTENSION_WEB_DIRS.pop(PACK.name, None)
        folders = f"{first.RELATIVE_PYTHON_MODULE.partition('.')[2]} and {PACK.name}"
        raise SettingError(f"custom_nodes has the LTX-2 nodes twice, in {folders}: remove one of them, and restart.")


def place_examples() -> None:
    """Put the media that our workflows open with where Load Image and its like look, unless they are there."""
    place_files(PACK / "workflows" / "examples", Path(folder_paths.get_input_directory()))


# ------------------------------------------------------------------------------------------------------------- the card

# Pinned memory is counted by the host, together with its own.
PINNED = PinnedMemory(pin=mm.pin_memory, unpin=mm.unpin_memory)

DEVICES = {"transformer": mm.get_torch_device, "text": mm.text_encoder_device, "vae": mm.vae_device}


def device_for(role: str) -> torch.device:
    """Return where the host's flags want a "transformer", a "text" encoder or a "vae" to run."""
    return DEVICES[role]()


def other_devices(names: str) -> tuple[torch.device, ...]:
    """Return the devices that share the transformer's work with the host's own, which is the first of those named."""
    return other_devices_named(names, device_for("transformer"))


def dtype_for(role: str, parameters: int) -> torch.dtype:
    """Return what such a network computes in: bfloat16 where the host thinks it wise, float32 on a CPU with room.

    Its flags are followed as far as that can be: float8 is a way to store weights, which ours have from their file,
    nothing computes in float64, and the numbers of Gemma go beyond float16.
    """
    device, usual = device_for(role), [torch.bfloat16, torch.float32]
    dtype = mm.vae_dtype(device, usual[:1]) if role == "vae" else mm.unet_dtype(device, parameters, usual)
    if role == "text" and (asked := mm.text_encoder_dtype(device)) in usual:
        dtype = asked
    if dtype not in usual and (dtype != torch.float16 or role == "text"):
        dtype = torch.float32 if dtype == torch.float64 else torch.bfloat16
    too_large = mm.is_device_cpu(device) and parameters * dtype.itemsize > mm.get_free_memory(device)
    return torch.bfloat16 if too_large else dtype


def room(device: torch.device, limits: Plan | None = None, copied: int = 0) -> Room:
    """Return what a stage may take of ``device`` once all others have left it, within ``limits``.

    On a CPU the host sends nobody away; ``copied`` bytes are those that our own networks hold there.
    """
    total, available = ram()
    if in_ram := mm.is_device_cpu(device):
        free = Room(UNLIMITED.machine, free_ram(total, available + copied), in_ram=in_ram)
    else:
        loaded = sum(one.loaded_size() for one in mm.loaded_models() if one and one.load_device == device)  # or is gone
        budget = max(0, int(free_of(device, mm.get_free_memory(device))) + loaded - mm.extra_reserved_memory())
        pins = not (in_ram := shares_ram(device)) and mm.MAX_PINNED_MEMORY > 0  # not with --disable-pinned-memory
        pinned = pinnable(total, available + PINNED.held) if pins else 0  # what we pinned before may be pinned again
        free = Room(machine(device), budget, pinned, in_ram, PINNED.free)
    return free if limits is None else free.within(limits.room.budget, limits.room.ram)


def software() -> dict[str, str]:
    """Return the versions of what an update may change, for a benchmark."""
    return {"pack": VERSION, "ComfyUI": comfyui_version.__version__, **software_versions()}


def patcher_of(network: torch.nn.Module | comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """Return the patcher of a network of the host's own; older loaders hand out the network itself, which keeps one."""
    if isinstance(network, comfy.model_patcher.ModelPatcher):
        return network
    if not hasattr(network, "ltx2av_patcher"):
        patcher = comfy.model_patcher.ModelPatcher(network, mm.get_torch_device(), torch.device("cpu"))
        network.ltx2av_patcher = patcher
    return network.ltx2av_patcher


# ---------------------------------------------------------------------------------------------- values, words, pictures


def nested(video: Tensor, audio: Tensor) -> NestedTensor:
    """Return both streams as the host's audio-video nodes pass them."""
    return NestedTensor((video, audio))


def to_host_format(tensor: Tensor) -> Tensor:
    """Return ``tensor`` where and as the host keeps results between nodes."""
    return tensor.to(mm.intermediate_device(), mm.intermediate_dtype())


SAID = "ltx2av.said"  # the event by which js/messages.js shows what a node says

# What the running node says; only one runs at a time, and it begins with nothing said.
_said = Messages(lambda text: None)


def _begin_messages() -> Messages:
    """Forget what the last node said; what is said from now on is shown on the running one."""
    global _said
    running = get_executing_context()
    _said = Messages(lambda text: None if running is None else send(SAID, running.node_id, {"said": text}))
    return _said


def show_text(text: str) -> None:
    """Show a sentence on the running node below what it has said, as plain text, and write it into the log."""
    log.info(text)
    _said.add(page_text(text))


def show_status(text: str) -> None:
    """Show on the running node what it does just now; empty is nothing."""
    _said.set_status(page_text(text))


def _telling(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the ``execute`` of a node that shows errors on it before they are raised, and keeps what it says."""

    @wraps(method)
    def run(owner: type, **values: Any) -> Any:
        messages = _begin_messages()
        try:
            with stoppable(mm.throw_exception_if_processing_interrupted), clean_inference():
                result = method(owner, **values)
        except LTX2Error as error:
            if isinstance(error, MemoryError):  # the host does it where that of a card ran out
                mm.unload_all_models()
            type(error).__module__ = "ltx2"  # what a page shows before the sentence, instead of a long path
            messages.add(str(error))
            raise
        finally:
            messages.set_status("")
        result.ui = result.ui or {"ltx2av_said": [messages.text]}  # never nothing: pages fail on that
        return result

    return run


def guarded(node: type[io.ComfyNode], kinds: Kinds) -> type[io.ComfyNode]:
    """Return ``node``, whose values are what its sockets and widgets say, and whose every word is plain text.

    The host lets any value from a link pass, and refuses files that are named as another system does; what no link
    brings is checked before anything runs. ``kinds`` are those of our own sockets. Words may quote files of anybody.
    """

    def checked(check: Callable[[Any, dict[str, Any], Kinds], None]) -> Callable[[dict[str, Any]], None]:
        return lambda values: check(node.define_schema().inputs, values, kinds)  # anew, because files come and go

    node.execute = classmethod(_telling(for_page(node.execute.__func__, checked(check_inputs))))
    if (method := node.fingerprint_inputs.__func__) is not io.ComfyNode.fingerprint_inputs.__func__:
        node.fingerprint_inputs = classmethod(for_page(method, checked(check_written)))
    node.validate_inputs = classmethod(for_page(lambda owner, **values: True, checked(check_written)))
    return node


_live_previews = PreviewWishes()  # what our own setting says in each browser


def answer_browser() -> None:
    """Answer browsers: ``js/index.js`` tells at its start and at each change whether it wants the moving preview.

    Files are asked for by the name of our folder: the host finds none if an address has to escape it, and no help page
    if it has a dot. Braces in it stand for any letter, because a pattern may have none alone.
    """
    routes = PromptServer.instance.routes
    names = re.sub(r"\\?[{}]", ".", "|".join(map(re.escape, (PACK.name, re.split("[.@]", PACK.name)[0]))))

    @routes.post("/ltx2av/live_preview")
    async def remember(request: web.Request) -> web.Response:
        refusal = _live_previews.remember(await request.json())
        return web.json_response({"error": refusal} if refusal else {}, status=400 if refusal else 200)

    @routes.get(f"/{{kind:{'|'.join(SERVED)}}}/{{pack:{names}}}/{{path:.+}}")
    async def send_file(request: web.Request) -> web.FileResponse:
        kind, path = request.match_info["kind"], request.match_info["path"]
        try:
            return web.FileResponse(path_inside(SERVED[kind], path, kind))
        except SettingError:  # before the system is asked, which on Windows would tell another machine who we are
            raise web.HTTPNotFound from None


def wants_live_preview() -> bool:
    """Return whether who runs the prompt wants the moving preview.

    A browser follows our own setting. Programs that have not told theirs get it where they ask for previews.
    """
    return _live_previews.of(PromptServer.instance.client_id, wants_previews())


def wants_previews() -> bool:
    """Return whether the user wants the host's own previews; ask in every run, since the browser sets it."""
    return comfy.cli_args.args.preview_method != comfy.cli_args.LatentPreviewMethod.NoPreviews


def preview_size() -> int:
    """Return how many pixels the longer side of a preview may have."""
    return comfy.cli_args.args.preview_size


def send(event: str, node_id: str | None, content: dict[str, Any]) -> None:
    """Send the browser that runs the prompt something that only our own part of it understands."""
    server = PromptServer.instance
    if server.client_id is not None:  # otherwise everybody would get it
        about = {"node": node_id, "prompt_id": server.last_prompt_id}
        server.send_sync(event, about | content, server.client_id)


def progress(total: int = 1) -> Callable[..., None]:
    """Return the bar of the running node: call it with (done, total) and, if there is one, a picture (H, W, 3)."""
    bar = comfy.utils.ProgressBar(total)
    bar.update_absolute(0)

    def show(done: int, total: int, picture: Tensor | None = None) -> None:
        preview = None if picture is None else ("JPEG", as_image(picture), preview_size())
        bar.update_absolute(done, total, preview)

    return show
