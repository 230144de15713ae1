"""Media whose pictures show their number and whose samples say their place, at any times in a file."""

from fractions import Fraction
from pathlib import Path

import av
import torch
from torch import Tensor

from ltx2_core.media import read_audio


def numbered(count: int, first: int = 0) -> Tensor:
    """Pictures (F, 32, 64, 3) that show their number as eight black or white bars."""
    numbers = torch.arange(first, first + count)
    bars = (numbers[:, None] >> torch.arange(8)) & 1
    return bars.float().repeat_interleave(8, 1)[:, None, :, None].expand(-1, 32, -1, 3)


def numbers(chunks) -> list[int]:
    """The numbers that pictures show."""
    frames = torch.cat(list(chunks))
    return ((frames[:, 16, 4::8, 0] > 0.5).long() << torch.arange(8)).sum(1).tolist()


def mux(
    path: Path,
    times: list[int],
    unit: Fraction = Fraction(1, 1000),
    codec: str = "libx264",
    sound: Tensor | None = None,
    sound_times: tuple[int, ...] = (0,),
    layout: str = "stereo",
    sound_codec: str = "pcm_s16le",
    last: int | None = None,
    **options: str,
) -> Path:
    """A file of numbered pictures at ``times``, and of sound in equal parts at ``sound_times``, all in ``unit``s.

    The last picture is shown for ``last``.
    """
    with av.open(str(path), "w", options=options) as container:
        if times:
            stream = container.add_stream(codec, rate=min(1 / unit, 100), options={"g": "12"})
            stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = 64, 32, "yuv420p", unit
        if sound is not None:
            audio = container.add_stream(sound_codec, rate=48000, layout=layout)
        for time, picture in zip(times, numbered(len(times))):
            frame = av.VideoFrame.from_ndarray((picture * 255).byte().numpy(), format="rgb24")
            frame.pts, frame.time_base = time, unit
            container.mux(stream.encode(frame))
        for packet in stream.encode() if times else []:
            if packet.pts == times[-1] and last is not None:
                packet.duration = last
            container.mux(packet)
        if sound is not None:
            for time, part in zip(sound_times, sound.chunk(len(sound_times), dim=1)):
                samples = (part * 32767).round().short().T.reshape(1, -1).numpy()
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = 48000, round(time * unit * 48000), Fraction(1, 48000)
                container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def ramp(samples: int) -> Tensor:
    """Both channels different, and no sample like another."""
    return torch.stack([torch.linspace(-0.9, 0.9, samples), torch.linspace(0.5, -0.5, samples)])


def heard(*args, **kwargs) -> Tensor:
    return torch.cat(list(read_audio(*args, **kwargs)), dim=1)
