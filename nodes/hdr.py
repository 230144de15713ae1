"""HDR: light from EXR files, and light into files."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.conditioning.light import LightSource, LightTarget
from ..ltx2_core.disk_cache import Stamp, stamps
from ..ltx2_core.pipeline.graph.codec import Audio, audio_source
from . import host
from .inputs import choice, optional, sockets, widgets
from .node import Node


class LoadHDR(Node):
    """EXR files as frames."""

    id = "LTX2AVLoadHDR"
    title = "loaders/Load HDR"
    inputs = [choice("file", host.light_files), widgets(LightSource, "space")]
    outputs = {"images": io.Image, "coded": io.Image}

    @classmethod
    def fingerprint_inputs(cls, file: str, space: str) -> list[Stamp]:
        return stamps(LightSource(space).frames(host.input_file(file)).files)

    @classmethod
    def execute(cls, file: str, space: str) -> io.NodeOutput:
        return io.NodeOutput(*LightSource(space).read(host.input_file(file)))


class SaveHDR(Node):
    """Light to files."""

    id = "LTX2AVSaveHDR"
    title = "decode/Save HDR"
    inputs = [sockets("images"), widgets(LightTarget, filename_prefix="LTX-2_HDR"), optional("audio")]
    shows = knows_graph = ends_graph = True

    @classmethod
    def execute(cls, images: Tensor, audio: Audio | None = None, **settings: Any) -> io.NodeOutput:
        files = LightTarget(**settings)
        path = host.output_file(files.filename_prefix, files.suffix, images.shape[2:0:-1])
        files.write(path, images[..., :3], audio_source(audio) if audio else None, host.graph_tags(cls.hidden))
        cls.show_saved(path)
        return io.NodeOutput()
