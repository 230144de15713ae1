"""How do frames and sound become files that everybody can play, and files frames and sound?"""

from .compress import compress
from .local import open_local
from .read import MediaInfo, probe, read_audio, read_picture, read_video
from .write import check_target, write_audio, write_clip, write_frames, write_video

__all__ = [
    "MediaInfo",
    "check_target",
    "compress",
    "open_local",
    "probe",
    "read_audio",
    "read_picture",
    "read_video",
    "write_audio",
    "write_clip",
    "write_frames",
    "write_video",
]
