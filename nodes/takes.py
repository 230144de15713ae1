"""Which take is kept, and gone on from?"""

from comfy_api.latest import io

from ..ltx2_core.disk_cache import Stamp, stamps
from ..ltx2_core.pipeline.graph import GraphLatent, latent_of_take
from ..ltx2_core.pipeline.takes import SUFFIX, load_take, save_take
from . import host
from .inputs import choice, sockets, text
from .node import Node
from .values import Latent, to_host_latent


class SaveLatent(Node):
    """A latent to a file."""

    id = "LTX2AVSaveLatent"
    title = "latent/Save AV Latent"
    inputs = [sockets("latent"), text("filename_prefix", "LTX-2_latent")]
    outputs = {"av_latent": io.Latent}
    shows = knows_graph = ends_graph = True

    @classmethod
    def execute(cls, latent: Latent, filename_prefix: str) -> io.NodeOutput:
        take = GraphLatent(latent).as_take(host.graph_tags(cls.hidden))
        cls.show_saved(save_take(host.output_file(filename_prefix, SUFFIX), take))
        return io.NodeOutput(latent)


class LoadLatent(Node):
    """A file to a latent."""

    id = "LTX2AVLoadLatent"
    title = "latent/Load AV Latent"
    inputs = [choice("file", lambda: host.kept_files(SUFFIX))]
    outputs = {"av_latent": io.Latent}
    shows = True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> list[Stamp]:
        return stamps([host.kept_file(file)])

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        take = load_take(host.kept_file(file))
        cls.show(take.describe())
        return io.NodeOutput(to_host_latent(latent_of_take(take)))
