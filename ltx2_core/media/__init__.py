"""How do frames and sound become files that everybody can play, and files frames and sound?"""

from .compress import compress
from .local import open_local
from .mix import change_rate, mix_down
from .notes import read_tags
from .picture import is_moving, read_picture
from .read import MediaInfo, probe, read_audio, read_video, widened
from .write import check_target, even_frames, write_audio, write_clip, write_frames, write_video

__all__ = [
    "MediaInfo",
    "change_rate",
    "check_target",
    "compress",
    "even_frames",
    "is_moving",
    "mix_down",
    "open_local",
    "probe",
    "read_audio",
    "read_picture",
    "read_tags",
    "read_video",
    "widened",
    "write_audio",
    "write_clip",
    "write_frames",
    "write_video",
]
