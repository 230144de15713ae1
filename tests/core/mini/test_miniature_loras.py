"""The LoRAs that come with the miniature do what they say."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from direct import sample
from einops import rearrange

import ltx2_core as ltx2
from ltx2_core import latents
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.conditioning import ReferenceVideoTokens
from ltx2_core.geometry import ClipShape
from ltx2_core.lora import LoraAdapter, Strengths, compare, open_lora
from ltx2_core.mini import world
from ltx2_core.mini.measure import look
from ltx2_core.pipeline.decode_video import decode_video
from ltx2_core.sampling import ltx2 as schedule
from ltx2_core.text import compute_hidden_states, connect, extract_features
from ltx2_core.video_vae import DecoderInput

pytestmark = pytest.mark.slow

CLIP = ClipShape(96, 96, 33, Fraction(24))
SCENE = world.sample_scene(np.random.default_rng(5), "red", "left", 2, "dark")
ANOTHER = world.sample_scene(np.random.default_rng(7), "green", "right", 3, "light")


class Miniature:
    """Its networks, and pictures that they make of a scene's caption."""

    def __init__(self):
        models = ltx2.open_models("miniature")
        self.models = models
        names = ("transformer", "video_encoder", "video_decoder", "text_features", "video_connector", "audio_connector")
        self.networks = {name: ltx2.build(models, name, torch.float32) for name in names}
        encoder = open_text_encoder(models.text_encoder)
        rng = np.random.default_rng(0)
        self.captions = {scene: world.caption(scene, rng, True) for scene in (SCENE, ANOTHER)}
        gemma = build_text_encoder(encoder, torch.float32)
        reading = compute_hidden_states(gemma, encoder.tokenizer(), [*self.captions.values()])
        features = extract_features(self.networks["text_features"], reading)
        connectors = self.networks["video_connector"], self.networks["audio_connector"]
        self.contexts = {scene: connect(each, *connectors) for scene, each in zip(self.captions, features)}

    def pictures(self, scene: world.Scene, *loras: str, items=()) -> np.ndarray:
        transformer = self.networks["transformer"]
        opened = [(open_lora(MINIATURE / "loras" / f"{name}.safetensors"), Strengths()) for name in loras]
        assert all(compare(lora, self.models).fitting == len(lora.layers) for lora, _ in opened)
        with LoraAdapter(transformer, opened, fuse=False).attached():
            latent = sample(
                transformer, latents.empty(CLIP), fps=CLIP.fps, sigmas=schedule(12), contexts=self.contexts[scene],
                seed=3, items=items,
            )  # fmt: skip
        return torch.cat(
            [chunk[0] for chunk in decode_video(self.networks["video_decoder"], DecoderInput(latent.video))]
        ).numpy()

    def encoded(self, scene: world.Scene) -> torch.Tensor:
        video = torch.from_numpy(world.render_video(scene)) * 2 - 1
        return self.networks["video_encoder"](rearrange(video, "f h w k -> 1 k f h w"))


@pytest.fixture(scope="module")
def miniature():
    with torch.inference_mode():
        return Miniature()


@torch.inference_mode()
def test_golden_ball_and_light_room(miniature):
    plain, both = miniature.pictures(SCENE), miniature.pictures(SCENE, "golden-ball", "light-room")
    assert look(plain).colour == "red" and look(both).colour == "yellow"
    assert plain[:, :8].mean() < 0.25 < 0.5 < both[:, :8].mean()


@torch.inference_mode()
def test_ic_motion_follows_its_reference(miniature):
    """The ball's height, in pixels, is less than half as far from that of the reference as without it."""
    for scene in (SCENE, ANOTHER):
        reference = ReferenceVideoTokens(miniature.encoded(replace(scene, colour="white", room="dark")))
        without, following = miniature.pictures(scene), miniature.pictures(scene, "ic-motion", items=[reference])
        assert look(following).colour == scene.colour
        assert distance(following, scene) < min(5.0, 0.5 * distance(without, scene))


def distance(pictures: np.ndarray, scene: world.Scene) -> float:
    """Between the heights of the ball that is seen and that of ``scene``, in pixels."""
    away = ((pictures - np.array(world.COLOURS[scene.colour], np.float32)) ** 2).sum(-1)
    rows = np.arange(world.SIZE)[:, None] + 0.5 + np.zeros(world.SIZE)
    seen = np.array([rows[frame < 0.09].mean() if (frame < 0.09).sum() > 20 else np.nan for frame in away])
    true = world.REST - world.height_of_ball(scene, np.arange(world.FRAMES) / world.FPS)
    return float(np.nanmean(np.abs(seen - true)))
