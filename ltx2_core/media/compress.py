"""Pictures as they come out of a video file, which is what the model was trained on."""

from io import BytesIO

import torch
from torch import Tensor

from . import pyav as av


def compress(picture: Tensor, crf: int) -> Tensor:
    """Send a picture through H.264 and back, in memory, because too clean pictures make clips that stand still.

    See ``conditioning/README.md``, "Pictures". An odd last row or column is cut off.

    Args:
        picture: (1, H, W, 3) in 0..1.
        crf: The H.264 quality, 0 to 51; 0 leaves the picture as it is.
    """
    if crf == 0 or min(picture.shape[1:3]) < 2:
        return picture
    height, width = (side - side % 2 for side in picture.shape[1:3])
    pixels = (picture[0, :height, :width] * 255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous().numpy()
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as container:
        decoded = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return torch.from_numpy(decoded).to(picture.device).div(255)[None]
