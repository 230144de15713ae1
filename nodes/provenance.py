"""Who made this clip, and is it whole?"""

from comfy_api.latest import InputImpl, io

from ..ltx2_core.media.provenance import Identity, anchors_of, describe_origin, read_signature, sign_file
from . import host, inputs
from .values import Video, save_video, video_file

PREFIX = "How the name begins, below ComfyUI's output folder; a number follows."


class SignClip(io.ComfyNode):
    """A video to a file that its maker has signed."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVSignClip",
            "decode/Sign Clip",
            inputs=[
                inputs.socket(io.Video, "video", "The finished clip: nothing may change it afterwards."),
                io.String.Input("filename_prefix", default="LTX-2_signed", tooltip=PREFIX),
            ],
            outputs={"video": io.Video},
            shows=True,
            knows_graph=True,
            is_output_node=True,
        )

    @classmethod
    def execute(cls, video: Video, filename_prefix: str) -> io.NodeOutput:
        path = save_video(video, host.output_file(filename_prefix, ".mp4"), host.graph_tags(cls.hidden))
        host.show_text(cls.hidden.unique_id, f"Saved {path.name} in the folder {path.parent.name}.")
        signature = sign_file(path, path, Identity.of(), overwrite=True)
        host.show_text(cls.hidden.unique_id, f"{path.name} is signed by {signature.who}.")
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)))


class CheckClip(io.ComfyNode):
    """A file of a video to what it says of itself."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVCheckClip",
            "decode/Check Clip",
            inputs=[inputs.socket(io.Video, "video", "A file, from Load Video or LTX-2 Sign Clip.")],
            outputs={"report": io.String},
            shows=True,
            is_output_node=True,
        )

    @classmethod
    def execute(cls, video: Video) -> io.NodeOutput:
        path = video_file(video)
        report = describe_origin(path, read_signature(path, anchors_of()))
        host.show_text(cls.hidden.unique_id, report)
        return io.NodeOutput(report)
