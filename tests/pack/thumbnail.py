"""The picture that ComfyUI's template browser shows beside a workflow: six moments of what it makes, and its sound.

python tests/pack/thumbnail.py CLIP.mp4 workflows/NAME.jpg      (or SOUND.flac)

With a name that ends in .webp the picture moves, as the one in README.md does: the clip itself, with a line that runs
through its sound. Without arguments a ComfyUI is started, runs every workflow, and all pictures are drawn anew.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

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
    draw_sound(draw, sound, (GAP + 8, top), (length, strip))
    for frame in shown:
        x = GAP + 8 + int(frame / len(frames) * length)
        draw.line((x, top + strip - 8, x, top + strip - 2), fill="#9aa0ac", width=2)
    return sheet


def draw_sound(draw: ImageDraw.ImageDraw, sound: np.ndarray, at: tuple[int, int], size: tuple[int, int]) -> None:
    """How loud ``sound`` is, from left to right."""
    (left, top), (length, height) = at, size
    loudness = np.abs(sound).max(0)
    for place, part in enumerate(np.array_split(loudness, length // 3)):
        x, half = left + place * 3, max(1, int(0.44 * height * part.max() / max(loudness.max(), 1e-3)))
        draw.line((x, top + height // 2 - half, x, top + height // 2 + half), fill="#e0604c", width=2)


def moving(frames: np.ndarray, sound: np.ndarray) -> list[Image.Image]:
    """Every frame, with the sound below it and a line where it is heard."""
    side, length = 3 * frames.shape[1], 3 * frames.shape[2]
    sheets = []
    for number, frame in enumerate(frames):
        sheet = Image.new("RGB", (length + 2 * GAP, side + STRIP + 3 * GAP), "#17181c")
        draw = ImageDraw.Draw(sheet)
        sheet.paste(Image.fromarray(frame).resize((length, side), Image.Resampling.LANCZOS), (GAP, GAP))
        top = side + 2 * GAP
        draw.rounded_rectangle((GAP, top, GAP + length - 1, top + STRIP), 6, fill="#1f2127")
        draw_sound(draw, sound, (GAP + 4, top), (length - 8, STRIP))
        x = GAP + 4 + number / len(frames) * (length - 8)
        draw.line((x, top + 4, x, top + STRIP - 4), fill="#dfe2e8", width=2)
        sheets.append(sheet)
    return sheets


def draw_all() -> None:
    """Run what is shipped, and draw what it makes."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from pack.client import Client
    from pack.clip import saved
    from pack.host import Host, serve
    from pack.workflow import SHIPPED, node, to_prompt

    with TemporaryDirectory() as folder, serve(Host.find(), Path(folder)) as server:
        client = Client(server.address)
        object_info = json.loads(client.fetch("/object_info"))
        for path in SHIPPED:
            prompt = to_prompt(json.loads(path.read_text()), object_info)
            saves = "SaveVideo" if any(each["class_type"] == "SaveVideo" for each in prompt.values()) else "SaveAudio"
            (clip,) = saved(server, client.run(prompt), node(prompt, saves))
            draw(str(clip), str(path.with_suffix(".jpg")))
            if path.stem == "text_to_video":
                draw(str(clip), str(path.with_suffix(".webp")))


def draw(clip: str, picture: str) -> None:
    with av.open(clip) as file:
        pictures = file.decode(video=0) if file.streams.video else ()
        frames = np.array([frame.to_ndarray(format="rgb24") for frame in pictures])
    with av.open(clip) as file:
        sound = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
    if picture.endswith(".webp"):
        first, *others = moving(frames, sound)
        pause = [1000 // 24] * len(others) + [600]
        first.save(picture, save_all=True, append_images=others, duration=pause, loop=0, quality=80)
    else:
        thumbnail(frames, sound).save(picture, quality=92)


if __name__ == "__main__":
    draw(*sys.argv[1:]) if sys.argv[1:] else draw_all()
