"""Stages of a node graph: what a second stage refuses, it refuses before anything is enlarged or encoded."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny_parts import write_upscaler

import ltx2_core as ltx2
from ltx2_core.checkpoint.upscaler import BUILT_IN, open_upscaler
from ltx2_core.conditioning.conditions import KeepAudio
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.sources import AudioSource
from ltx2_core.errors import SettingError
from ltx2_core.geometry import Keyframes
from ltx2_core.latents import AVLatent
from ltx2_core.pipeline.encode_conditions import ConditionCache
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.generate import recipe_of
from ltx2_core.pipeline.graph import stages
from ltx2_core.pipeline.graph.codec import decode_sound
from ltx2_core.pipeline.graph.latents import KEYFRAMES, GraphLatent, LongClipPlan, latent_of
from ltx2_core.pipeline.graph.stages import Raising, Refining, enlarge_and_refine, sample_latent
from ltx2_core.pipeline.long import Script
from ltx2_core.sampling import Guidance, StreamGuidance, TileSettings
from ltx2_core.sampling.windows import Windowing
from ltx2_core.settings import Resources, SecondStage
from ltx2_core.text import Contexts
from ltx2_core.text.prompts import MADE_BY

SIGMAS = {"sigmas": torch.tensor([1.0, 0.0]), "guidance": StreamGuidance()}


class Ran(Exception):
    """A network is asked for."""


class Engine(LocalEngine):
    """That of a node, on the CPU, which runs nothing."""

    last_step = None

    def __init__(self, models):
        super().__init__(models, Resources(device="cpu"))
        self.conditions, self.findings = ConditionCache(), []

    def use(self, stage, loras=None):
        raise Ran(stage.name)


def upscaler_of(path):
    file = open_upscaler(path)
    return SimpleNamespace(config=file.config, dtype=torch.float32)


class Node:
    """What the nodes of a second stage have connected: 96 x 64 pixels, 9 frames, with sound."""

    def __init__(self, models, file=BUILT_IN, prompts=1, keyframes=(8,)):
        video, audio = (torch.ones(size) for size in ((1, 128, 2, 2, 3), (1, 8, 9, 16)))
        latent = latent_of(AVLatent(video, audio), {"fps": 24, MADE_BY: models.generation})
        beside = {KEYFRAMES: Keyframes(video[:, :, : len(keyframes)], keyframes)}
        self.engine, self.upscaler = Engine(models), upscaler_of(file)
        self.begin = GraphLatent(latent | (beside if self.upscaler.config.time > 1 else {}))
        self.positive = [[torch.zeros(prompts, 4, 8), {}]]

    def two_stages(self, conditions=(), refiner=None, **second):
        settings = SecondStage(**second)
        recipe = settings.completed(recipe_of(self.engine.models).refine, conditions)
        lay_out = partial(Refining.of, (self.positive, None), settings, recipe, 0, conditions, self.begin.content)
        engine = self.engine if refiner is None else Engine(refiner)
        return enlarge_and_refine(self.engine, self.begin, self.upscaler, lambda large: engine, lay_out, None, settings)

    def raised(self, conditions=()):
        lay_out = partial(Raising.of, self.positive, conditions, 1, 0)
        return enlarge_and_refine(self.engine, self.begin, self.upscaler, lambda large: self.engine, lay_out, "time")


@pytest.fixture(scope="module")
def temporal(tmp_path_factory):
    kind = {"spatial_upsample": False, "temporal_upsample": True}
    return write_upscaler(tmp_path_factory.mktemp("time"), kind)


@pytest.fixture(autouse=True)
def no_connectors(monkeypatch):
    """A prompt is as it was encoded."""

    def text(engine, positive, negative=None, long=None):
        return Script.of(Contexts(positive[0][0], positive[0][0]))

    monkeypatch.setattr(stages, "script_of", text)


SCALED = StreamGuidance(Guidance(text_scale=3), Guidance())


def test_two_stages_enlarge_first_where_nothing_is_wrong(miniature):
    with pytest.raises(Ran, match="upscaling space by 2"):
        Node(miniature).two_stages([Picture(torch.zeros(1, 64, 96, 3))], tiles=TileSettings(columns=2))


@pytest.mark.parametrize(
    "how, said",
    [
        ({"tiles": TileSettings(columns=50)}, "cannot be cut into"),
        ({"guidance": SCALED}, "A text scale is 3, but there is no negative prompt"),
        ({"conditions": [Picture(torch.zeros(1, 64, 96, 3))] * 2}, "Two pictures are given at frame 0"),
        ({"conditions": [Picture(torch.zeros(1, 64, 96, 3), frame=20)]}, "frame"),
    ],
    ids=["tiles", "negative", "pictures", "frame"],
)
def test_what_a_second_stage_cannot_be_is_refused_before_the_latent_is_enlarged(miniature, how, said):
    with pytest.raises(SettingError, match=said):
        Node(miniature).two_stages(**how)


def test_a_refiner_of_another_model_and_other_prompts_are_refused_before_the_latent_is_enlarged(miniature, tiny_files):
    with pytest.raises(SettingError, match="This latent was made by"):
        Node(miniature).two_stages(refiner=ltx2.open_models(tiny_files("2.3")[0]))
    with pytest.raises(SettingError, match="2 prompts came for 1 clip"):
        Node(miniature, prompts=2).two_stages()


def test_detailing_is_refused_before_the_latent_is_enlarged(miniature, temporal):
    with pytest.raises(SettingError, match="Detailing follows a first stage of the same frames"):
        Node(miniature, temporal).two_stages(detailing=True)


def test_a_round_is_refused_before_the_latent_is_enlarged(miniature, tiny_files, temporal):
    with pytest.raises(SettingError, match="no keyframe marker"):
        Node(miniature, temporal).raised()
    marks = ltx2.open_models(tiny_files("2.5")[0])
    with pytest.raises(SettingError, match="keyframes that lie 16 frames or more"):
        Node(marks, temporal, keyframes=(0, 8)).raised()
    with pytest.raises(Ran, match="upscaling time by 2"):
        Node(marks, temporal).raised()


def test_a_sampler_refuses_before_anything_is_encoded(miniature):
    node, picture = Node(miniature), Picture(torch.zeros(1, 64, 96, 3))
    with pytest.raises(SettingError, match="there is no negative prompt"):
        sample_latent(node.engine, node.begin, (node.positive, None), [picture], None, {"guidance": SCALED})
    with pytest.raises(Ran, match="pictures"):
        sample_latent(node.engine, node.begin, (node.positive, None), [picture], None, {"guidance": StreamGuidance()})


@pytest.mark.parametrize("count", [0, 1])
def test_a_sampler_without_a_step_says_how_many_noise_levels_there_are(miniature, count):
    node = Node(miniature)
    with pytest.raises(SettingError, match=f"has {count} sigmas?; a step needs two"):
        sample_latent(node.engine, node.begin, (node.positive, None), (), None, {"sigmas": torch.ones(count)})


@pytest.mark.parametrize("beyond", [1.2, -1.0])
def test_a_noise_mask_beyond_0_to_1_scales_no_noise(miniature, beyond):
    """As bicubic resizing leaves it, and as ComfyUI marks gaps between guides."""
    extras = Node(miniature).begin.extras
    mask = GraphLatent({**extras, "noise_mask": torch.full((1, 64, 96), beyond)}).mask
    assert mask.video.unique().tolist() == [1.0 if beyond > 0 else 0.0]


def sound(*levels, rate=16000):
    return {"waveform": torch.tensor(levels).view(-1, 1, 1).expand(-1, 2, 6000), "sample_rate": rate}


def test_each_clip_is_shown_with_its_own_sound(miniature):
    both = {name: torch.ones(2, *size) for name, size in (("video", (128, 2, 2, 3)), ("audio", (8, 9, 16)))}
    clips = GraphLatent(latent_of(AVLatent(**both), {"fps": 24, MADE_BY: miniature.generation}))
    engine = Engine(miniature)
    own = decode_sound(engine, clips, sound(0.1, 0.2))["waveform"]
    assert own.shape == (2, 2, 6000) and own[:, 0, 0].tolist() == pytest.approx([0.1, 0.2])
    assert decode_sound(engine, clips, sound(0.3))["waveform"].unique().tolist() == pytest.approx([0.3])
    with pytest.raises(SettingError, match="holds 3 sounds, and one is meant"):
        decode_sound(engine, clips, sound(0.1, 0.2, 0.3))


def sampled(node, given=(), windows=None):
    """What a sampler without guidance says before it runs a network."""
    said = []
    node.engine.events = SimpleNamespace(on_remark=said.append)
    with pytest.raises(Ran):
        sample_latent(node.engine, node.begin, (node.positive, None), given, windows, dict(SIGMAS))
    return said


def test_a_sampler_says_that_a_given_sound_ends_before_the_clip(miniature, monkeypatch):
    monkeypatch.setattr(stages, "encode_given", lambda *given: [])
    short, whole = ([KeepAudio(AudioSource(torch.zeros(2, count), 16000))] for count in (600, 6000))
    assert not any("filled with silence" in each for each in sampled(Node(miniature), whole))
    assert any("lasts 0.04 s, and the clip 0.38 s" in each for each in sampled(Node(miniature), short))


def long_clip(models, sounds):
    """A node with a picture of 41 frames, and so many latents of sound."""
    node = Node(models)
    streams = AVLatent(torch.ones(1, 128, 6, 2, 2), torch.ones(1, 8, sounds, 16))
    node.begin = GraphLatent(latent_of(streams, {"fps": 24, MADE_BY: models.generation}))
    return node


@pytest.mark.parametrize("latents", [9, 100])
def test_windows_of_a_picture_and_a_sound_that_do_not_end_together_are_refused(miniature, latents):
    windows = LongClipPlan(Windowing(25, 8), resume=False)
    sampled(long_clip(miniature, 43), windows=windows)
    with pytest.raises(SettingError, match=r"1\.71 s at 24 fps.* Windows need both to end together"):
        sampled(long_clip(miniature, latents), windows=windows)


@pytest.mark.parametrize(("start", "told"), [(99.0, True), (1.0, False)])
def test_a_sampler_says_which_prompt_no_window_reads(miniature, monkeypatch, start, told):
    monkeypatch.setattr(stages, "encode_given", lambda *given: [])
    parts = tuple((moment, Contexts(torch.zeros(1, 4, 8), None)) for moment in (0.0, start))
    monkeypatch.setattr(stages, "script_of", lambda *given: Script(parts, None))
    said = sampled(long_clip(miniature, 43), windows=LongClipPlan(Windowing(25, 8), resume=False))
    assert any(f"The prompt from {start:g} s on is not read" in each for each in said) == told
