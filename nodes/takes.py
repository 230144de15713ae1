"""Which take is kept, and gone on from?"""

from comfy_api.latest import io

from ..ltx2_core.disk_cache import Stamp, stamps
from ..ltx2_core.pipeline.takes import SUFFIX, load_take, save_take
from . import host, inputs
from .values import HostLatent, Latent, latent_of_take

PREFIX = "How the name begins, below ComfyUI's output folder; a number follows."
FILES = "A latent that LTX-2 Save AV Latent wrote, from ComfyUI's output or input folder."


class SaveLatent(io.ComfyNode):
    """A latent to a file."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVSaveLatent",
            "latent/Save AV Latent",
            inputs=[
                inputs.latent("What is kept, finished or not."),
                io.String.Input("filename_prefix", default="LTX-2_latent", tooltip=PREFIX),
            ],
            outputs={"av_latent": io.Latent},
            shows=True,
            knows_graph=True,
            is_output_node=True,
        )

    @classmethod
    def execute(cls, latent: Latent, filename_prefix: str) -> io.NodeOutput:
        take = HostLatent(latent).as_take(host.graph_tags(cls.hidden))
        path = save_take(host.output_file(filename_prefix, SUFFIX), take)
        host.show_text(cls.hidden.unique_id, f"Saved {path.name} in the folder {path.parent.name}.")
        return io.NodeOutput(latent)


class LoadLatent(io.ComfyNode):
    """A file to a latent."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVLoadLatent",
            "latent/Load AV Latent",
            inputs=[io.Combo.Input("file", options=host.kept_files(SUFFIX), tooltip=FILES)],
            outputs={"av_latent": io.Latent},
            shows=True,
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> list[Stamp]:
        return stamps([host.kept_file(file)])

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        take = load_take(host.kept_file(file))
        host.show_text(cls.hidden.unique_id, take.describe())
        return io.NodeOutput(latent_of_take(take))
