"""HDR: light from EXR files, and light into files."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ltx2_core.conditioning.light import LightSource, LightTarget
from ..ltx2_core.disk_cache import Stamp, stamps
from . import host, inputs
from .values import Audio, audio_source

FILES = "An .exr file, or a folder of them in the order of their names, from ComfyUI's input folder."


class LoadHDR(io.ComfyNode):
    """EXR files as frames."""

    @classmethod
    def define_schema(cls):
        files = io.Combo.Input("file", options=host.light_files(), tooltip=FILES)
        return inputs.schema(
            "LTX2AVLoadHDR",
            "loaders/Load HDR",
            inputs=[files, *inputs.widgets(LightSource, "space")],
            outputs={"images": io.Image, "coded": io.Image},
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, space: str) -> list[Stamp]:
        return stamps(LightSource(space).frames(host.input_file(file)).files)

    @classmethod
    def execute(cls, file: str, space: str) -> io.NodeOutput:
        return io.NodeOutput(*LightSource(space).read(host.input_file(file)))


class SaveHDR(io.ComfyNode):
    """Light to files."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVSaveHDR",
            "decode/Save HDR",
            inputs=[
                inputs.socket(io.Image, "images", "Frames in linear light of sRGB, from LTX-2 Video VAE Decode."),
                *inputs.widgets(LightTarget, "filename_prefix", "form", "space", "fps"),
                inputs.socket(io.Audio, "audio", "The sound of the clip.", optional=True),
            ],
            shows=True,
            knows_graph=True,
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor, audio: Audio | None = None, **settings: Any) -> io.NodeOutput:
        files = LightTarget(**settings)
        sound = None if audio is None else audio_source(audio)
        path = host.output_file(files.filename_prefix, files.suffix)
        files.write(path, images[..., :3], sound, host.graph_tags(cls.hidden))
        host.show_text(cls.hidden.unique_id, f"Saved {path.name} in the folder {path.parent.name}.")
        return io.NodeOutput()
