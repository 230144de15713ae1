"""Who made this clip, and is it whole?"""

from comfy_api.latest import InputImpl, io

from ..ltx2_core.fields import OutputName
from ..ltx2_core.media.provenance import Identity, anchors_of, describe_origin, read_signature, sign_file
from . import host
from .inputs import sockets, widgets
from .node import Node
from .values import Video, save_video, video_file, video_source


class SignClip(Node):
    """A video to a file that its maker has signed."""

    id = "LTX2AVSignClip"
    title = "decode/Sign Clip"
    inputs = [sockets("video"), widgets(OutputName, filename_prefix="LTX-2_signed")]
    outputs = {"video": io.Video}
    shows = knows_graph = ends_graph = True

    @classmethod
    def execute(cls, video: Video, filename_prefix: str) -> io.NodeOutput:
        path = host.output_file(filename_prefix, ".mp4", video_source(None, video).size())
        save_video(video, path, host.graph_tags(cls.hidden))
        cls.show_saved(path)
        cls.show(f"{path.name} is signed by {sign_file(path, path, Identity.of(), overwrite=True).who}.")
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)))


class CheckClip(Node):
    """A file of a video to what it says of itself."""

    id = "LTX2AVCheckClip"
    title = "decode/Check Clip"
    inputs = [sockets("video")]
    outputs = {"report": io.String}
    shows = ends_graph = True

    @classmethod
    def execute(cls, video: Video) -> io.NodeOutput:
        path = video_file(video)
        report = describe_origin(path, read_signature(path, anchors_of()))
        cls.show(report)
        return io.NodeOutput(report)
