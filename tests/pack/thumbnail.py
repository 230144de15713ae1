"""The picture that ComfyUI's template browser shows beside a workflow: six moments of what it makes, and its sound.

python tests/pack/thumbnail.py CLIP.mp4 workflows/NAME.jpg      (or SOUND.flac)
"""

import sys

import av
import numpy as np
from PIL import Image, ImageDraw

SIDE, GAP, STRIP = 160, 8, 96
WIDTH, HEIGHT = 4 * GAP + 3 * SIDE, 4 * GAP + 2 * SIDE + STRIP
MOMENTS = 6


def thumbnail(frames: np.ndarray, sound: np.ndarray) -> Image.Image:
    """``frames`` (F, H, W, 3) in 0..255, if any, and ``sound`` (channels, N) as one picture on one time axis."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), "#17181c")
    draw = ImageDraw.Draw(sheet)
    shown = np.linspace(len(frames) / 12, len(frames) * 11 / 12, MOMENTS if len(frames) else 0).astype(int)
    for place, frame in enumerate(shown):
        row, column = divmod(place, 3)
        picture = Image.fromarray(frames[frame]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(picture, (GAP + column * (SIDE + GAP), GAP + row * (SIDE + GAP)))
    strip, length = STRIP if len(frames) else HEIGHT - 2 * GAP, WIDTH - 2 * GAP - 16
    top = HEIGHT - GAP - strip
    draw.rounded_rectangle((GAP, top, WIDTH - GAP - 1, top + strip), 6, fill="#1f2127")
    loudness = np.abs(sound).max(0)
    for place, part in enumerate(np.array_split(loudness, length // 3)):
        x, size = GAP + 8 + place * 3, max(1, int(0.44 * strip * part.max() / max(loudness.max(), 1e-3)))
        draw.line((x, top + strip // 2 - size, x, top + strip // 2 + size), fill="#e0604c", width=2)
    for frame in shown:
        x = GAP + 8 + int(frame / len(frames) * length)
        draw.line((x, top + strip - 8, x, top + strip - 2), fill="#9aa0ac", width=2)
    return sheet


def main(clip: str, picture: str) -> None:
    with av.open(clip) as file:
        pictures = file.decode(video=0) if file.streams.video else ()
        frames = np.array([frame.to_ndarray(format="rgb24") for frame in pictures])
    with av.open(clip) as file:
        sound = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
    thumbnail(frames, sound).save(picture, quality=92)


if __name__ == "__main__":
    main(*sys.argv[1:])
