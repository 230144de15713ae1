"""What a run saved, read back."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from pack.client import Run
from pack.host import Server
from PIL import Image


def saved(server: Server, run: Run, node: str) -> list[Path]:
    """The files that a node wrote in a run that succeeded."""
    assert run.end == "execution_success", run.error
    entries = [entry for group in run.outputs[node].values() for entry in group]
    return [server.output / entry["subfolder"] / entry["filename"] for entry in entries if isinstance(entry, dict)]


def pictures_in(paths: list[Path]) -> np.ndarray:
    """Picture files as (F, H, W, 3), 0..255."""
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def pictures(server: Server, run: Run) -> np.ndarray:
    """What the node "pictures" saved in a run that succeeded, (F, H, W, 3), 0..255."""
    return pictures_in(saved(server, run, "pictures"))


def sound_in(path: Path) -> tuple[np.ndarray, int]:
    """The samples (channels, time) of a file and their rate."""
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray() for frame in file.decode(audio=0)]
        return np.concatenate(frames, axis=1), file.streams.audio[0].rate


@dataclass(frozen=True)
class Clip:
    """A video file with sound."""

    frames: np.ndarray  # (F, H, W, 3), 0..255
    fps: Fraction
    video_seconds: Fraction
    sound: np.ndarray  # (channels, samples), -1..1
    sample_rate: int
    audio_seconds: Fraction

    @classmethod
    def of(cls, server: Server, run: Run, save_video: str) -> "Clip":
        """What the node ``save_video`` saved in a run that succeeded."""
        (path,) = saved(server, run, save_video)
        with av.open(str(path)) as file:
            video, audio = file.streams.video[0], file.streams.audio[0]
            seconds = [stream.duration * stream.time_base for stream in (video, audio)]
            fps = video.average_rate
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video)])
        return cls(frames, fps, seconds[0], *sound_in(path), seconds[1])
