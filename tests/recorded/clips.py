"""Clips of the miniature that reach every way through ``generate``, at small sizes and with few steps.

What they are made from is made here, from seeded random numbers and formulas. All calls of the facade are in this file:
where names of its arguments change, this is the one place to follow.
"""

from collections.abc import Callable
from fractions import Fraction
from math import pi
from typing import Any

import torch
from torch import Tensor

import ltx2_core as ltx2
from ltx2_core import Clip, Models
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.upscaler import BUILT_IN, open_upscaler
from ltx2_core.conditioning.conditions import InitClip, InpaintMask, KeepAudio, KeepVideo, ReferenceVideo, RetakeRange
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.sources import AudioSource, VideoSource
from ltx2_core.lora import Lora, Strengths, StrengthSchedule, open_lora
from ltx2_core.sampling import Guidance, Tiles
from ltx2_core.sampling.guidance import GuidanceBySigma
from ltx2_core.sampling.windows import Segment, Windowing
from ltx2_core.settings import SecondStage

PROMPT = "a red ball bounces twice on the left"
ANOTHER = "a green ball bounces three times on the right in a dark room"
WIDTH, HEIGHT, FRAMES = 96, 64, 33

SMALL_CARD = 604 * 10**6  # bytes: a little more than the least that is not refused
PLAIN = Guidance()
GUIDED = Guidance(text_scale=3, cross_modal_scale=2, stg_scale=1, stg_blocks=(1,), rescale=0.7)


def ball(frames: int, colour: tuple[float, float, float] = (0.9, 0.2, 0.1)) -> Tensor:
    """Return a disc on grey that swings from left to right, (F, H, W, 3) in 0..1, with a little seeded grain."""
    time = torch.arange(frames).view(-1, 1, 1) / 24
    rows, columns = torch.arange(HEIGHT).view(1, -1, 1), torch.arange(WIDTH).view(1, 1, -1)
    across, down = WIDTH * (0.5 + 0.3 * (2 * pi * time).sin()), HEIGHT * (0.6 - 0.2 * (4 * pi * time).cos().abs())
    disc = ((12 - ((columns - across) ** 2 + (rows - down) ** 2).sqrt()) / 2).sigmoid()[..., None]
    grain = torch.rand((frames, HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(frames))
    return (0.35 + disc * (torch.tensor(colour) - 0.35) + 0.02 * (grain - 0.5)).clamp(0, 1)


def tone(seconds: float, rate: int = 24_000) -> Tensor:
    """Return two dying tones with a little seeded noise, left louder than right, (2, N) in -1..1."""
    time = torch.arange(round(seconds * rate)) / rate
    first, second = (-6 * time).exp(), (-6 * (time - 0.5).abs()).exp()
    ring = (2 * pi * 440 * time).sin() * first + (2 * pi * 660 * time).sin() * second
    noise = torch.randn((2, len(time)), generator=torch.Generator().manual_seed(0))
    return (torch.stack([0.5 * ring, 0.2 * ring]) + 0.01 * noise).clamp(-1, 1)


def recording(seconds: float = 1.5) -> AudioSource:
    """Return the tones as a sound that can be given."""
    return AudioSource(tone(seconds), 24_000)


def lora(name: str) -> Lora:
    """Return an opened LoRA of the miniature."""
    return open_lora(MINIATURE / "loras" / f"{name}.safetensors")


def make(models: Models, prompt: str = PROMPT, **settings: Any) -> Clip:
    """Call the facade, small and unguided where nothing else is said."""
    small = {"width": WIDTH, "height": HEIGHT, "frames": 17, "steps": 2, "seed": 11, "video": PLAIN, "audio": PLAIN}
    return ltx2.generate(models, prompt, device="cpu", cache=False, **small | settings)


# The clips


def text(models: Models) -> Clip:
    """From a prompt and a negative one, with all passes of guidance."""
    return make(models, negative="blurry", frames=FRAMES, steps=3, video=GUIDED, audio=Guidance(4, 2))


def image(models: Models) -> Clip:
    """From a first picture, compressed as the model was trained."""
    return make(models, conditions=[Picture(ball(1))], fps="23.976", sampler="euler_ancestral", video=Guidance(2))


def keyframes_at_three_places(models: Models) -> Clip:
    """Between pictures: a compressed first one, a weaker last one, and a short video in the middle as extra tokens."""
    given = [
        Picture(ball(1), compression=20),
        Picture(ball(1), -1, 0.7, compression=0),
        Picture(ball(9), 8, append=True),
    ]
    return make(models, conditions=given, frames=FRAMES, audio=Guidance(2))


def audio_to_video(models: Models) -> Clip:
    """A picture for a sound that is shorter than the clip."""
    return make(models, conditions=[KeepAudio(recording(1.0), noise=0.1)], frames=FRAMES, video=Guidance(3))


def video_to_audio(models: Models) -> Clip:
    """A sound for a film of another frame rate."""
    return make(
        models, conditions=[KeepVideo(VideoSource(ball(45), fps=Fraction(30)))], frames=FRAMES, audio=Guidance(3)
    )


def retake(models: Models) -> Clip:
    """Half a second of a film and its sound made anew."""
    given = [InitClip(VideoSource(ball(FRAMES)), recording()), RetakeRange(0.5, 1.0)]
    return make(models, conditions=given, frames=FRAMES, steps=3, sampler="dpmpp_2m")


def inpaint(models: Models) -> Clip:
    """The right half of a film made anew, its sound kept."""
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[..., WIDTH // 2 :] = 1
    given = [InitClip(VideoSource(ball(17)), recording(0.8)), InpaintMask(mask, feather=1)]
    return make(models, conditions=given, video=Guidance(2))


def ic_lora(models: Models) -> Clip:
    """A reference video that an IC-LoRA follows, with a second LoRA that fades out by step."""
    fading = Strengths(0.8, audio=0.5, schedule=StrengthSchedule.through([(0, 1.0), (2, 0.25)]), schedule_over="steps")
    reference = ReferenceVideo(VideoSource(ball(17, (1.0, 1.0, 1.0))), strength=0.9, attention=0.8)
    return make(models, conditions=[reference], loras=[(lora("ic-motion"), Strengths()), (lora("golden-ball"), fading)])


def long_guided(models: Models) -> Clip:
    """Three windows with a prompt each, guided, a picture in the second one, colours drawn to the first."""
    return make(
        models,
        frames=65,
        conditions=[Picture(ball(1), 40, compression=0)],
        windowing=Windowing(33, 16, drift_control=0.5),
        segments=[Segment(1.0, ANOTHER), Segment(2.0, "a blue ball bounces once in the middle")],
        video=Guidance(2),
        audio=Guidance(2),
    )


def long_unguided(models: Models) -> Clip:
    """Windows that hold on to each other less firmly, for a sound that is given for the whole of it."""
    return make(
        models,
        frames=57,
        conditions=[KeepAudio(recording(2.4))],
        windowing=Windowing(33, 8, overlap_strength=0.8),
        segments=[Segment(1.5, ANOTHER)],
    )


def two_stages_in_tiles(models: Models) -> Clip:
    """A small clip enlarged by two and refined in four tiles, with the picture given at both sizes."""
    second = SecondStage((open_upscaler(BUILT_IN),), tiles=Tiles((1, 2, 2), (0, 1, 1)))
    return make(models, width=192, height=128, second=second, conditions=[Picture(ball(1), compression=0)])


def hq(models: Models) -> Clip:
    """Few, precise steps of second order, with guidance that depends on the noise level and a schedule of its own."""
    strong = Guidance(3, 2, cfg_star=True, apg_parallel=0.5, apg_limit=5.0, rescale=0.45, skip_steps=1)
    video = GuidanceBySigma(((0.6, Guidance(2)), (1.0, strong)))
    audio = Guidance(4, 2, nag_scale=3, rescale=1)
    return make(models, negative="silence", sampler="res_2s", sigmas=[1.0, 0.8, 0.4, 0.0], video=video, audio=audio)


def small_card(models: Models) -> Clip:
    """On a card on which transformer and audio decoder are streamed, with little RAM."""
    settings = {"ram": 2**28, "loras": [(lora("light-room"), Strengths(0.7))], "video": Guidance(3)}
    return make(models, frames=9, vram=SMALL_CARD, **settings)


CLIPS: dict[str, Callable[[Models], Clip]] = {
    each.__name__: each
    for each in (
        text,
        image,
        keyframes_at_three_places,
        audio_to_video,
        video_to_audio,
        retake,
        inpaint,
        ic_lora,
        long_guided,
        long_unguided,
        two_stages_in_tiles,
        hq,
        small_card,
    )
}
