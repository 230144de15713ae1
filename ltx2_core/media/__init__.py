"""How do frames and sound become files that everybody can play?"""

from .write import check_target, write_audio, write_clip, write_frames, write_video

__all__ = ["check_target", "write_audio", "write_clip", "write_frames", "write_video"]
