"""The second stage: sizes, what is found by name, tiles in a whole run, whose sound ships, the miniature's upscaler."""

from dataclasses import replace
from fractions import Fraction

import pytest
import tiny_parts
import torch
from direct import sample
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core import latents, tiny
from ltx2_core.__main__ import main
from ltx2_core.checkpoint.upscaler import BUILT_IN, build_upscaler, find_upscaler, open_upscaler, video_statistics
from ltx2_core.conditioning import Frozen, KeepVideo, VideoSource, apply_conditions
from ltx2_core.geometry import ClipShape
from ltx2_core.health import Seams
from ltx2_core.latents import AVLatent
from ltx2_core.lora import Strengths
from ltx2_core.lora.stack import find_distilled_lora
from ltx2_core.memory.placement import UNLIMITED, Room
from ltx2_core.mini.upscaler import pairs
from ltx2_core.pipeline.encode_text import contexts_cache
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.generate import completed
from ltx2_core.pipeline.plan import plan_stages
from ltx2_core.pipeline.stage import need_of
from ltx2_core.pipeline.stages import Stages
from ltx2_core.pipeline.upscale import upscale
from ltx2_core.sampling import Tiles, recipes
from ltx2_core.sampling.schedules import starting_at
from ltx2_core.sampling.windows import Segment
from ltx2_core.settings import Request, Resources, SecondStage
from ltx2_core.text import Contexts

PROMPT = "a red ball bounces twice on the left"
SMALL = {"width": 192, "height": 128, "frames": 17, "steps": 2, "cache": False}


@pytest.fixture(scope="module")
def spatial():
    return open_upscaler(BUILT_IN)


@pytest.fixture(scope="module")
def temporal(tmp_path_factory):
    kind = {"spatial_upsample": False, "temporal_upsample": True}
    return open_upscaler(tiny_parts.write_upscaler(tmp_path_factory.mktemp("time"), kind))


# Sizes, and what lies beside a checkpoint


def test_the_first_stage_is_smaller_by_what_enlarges_it(spatial, temporal, tmp_path):
    both = SecondStage((spatial, temporal))
    first = both.first(1920, 1088, 121, Fraction(24))
    assert first == ClipShape(960, 544, 121, Fraction(24))
    assert both.last(first) == ClipShape(1920, 1088, 241, Fraction(48))
    kind = {"rational_resampler": True, "spatial_scale": 1.5}
    by_half = SecondStage((open_upscaler(tiny_parts.write_upscaler(tmp_path, kind)),))
    assert by_half.last(by_half.first(1152, 768, 9, Fraction(24))) == ClipShape(1152, 768, 9, Fraction(24))
    with pytest.raises(ValueError, match=r"height is 1080; what is enlarged by 2 must be a multiple of 64, .* 1088"):
        both.first(1920, 1080, 121, Fraction(24))
    with pytest.raises(ValueError, match=r"width is 1952; what is enlarged by 1\.5 must be a multiple of 96, .* 1920"):
        by_half.first(1952, 1056, 9, Fraction(24))


def test_what_enlarges_twice_is_placed_by_its_own_size_each_time(spatial, miniature):
    """Engines know a planned stage by its name, and the second one works on four times as much."""
    second = SecondStage((spatial, spatial), refine=False)
    complete = completed(miniature, Request.of(PROMPT, second=second, width=256, height=256, frames=9))
    engine = LocalEngine(miniature, Resources(device="cpu"))
    twice = [*Stages.of(complete, engine, contexts_cache(engine, None)).upscale]
    assert [stage.size for stage in twice] == [(2, 2, 2), (2, 4, 4)]
    plan = plan_stages(twice, engine.blueprint, Room(UNLIMITED.machine, 10**12))
    for stage in twice:
        assert plan.stage(stage) == stage and plan.placement(stage.name).need == need_of(stage, engine.blueprint)


@pytest.mark.slow
def test_upscaler_and_distilled_lora_are_found_by_their_official_names(miniature, tmp_path):
    assert find_upscaler(miniature, 2).file.path == BUILT_IN
    checkpoint, _, _ = tiny.write(tmp_path / "checkpoints", "2.3")
    others = ltx2.open_models(checkpoint)
    with pytest.raises(FileNotFoundError, match=r"no ltx-2\.3-spatial-upscaler-x1\.5-\*\.safetensors in .*checkpoints"):
        find_upscaler(others, 1.5)
    with pytest.raises(FileNotFoundError, match=r"no ltx-2\.3-\*distilled\*-lora\*\.safetensors in .*--distilled-lora"):
        find_distilled_lora(others)
    beside = tmp_path / "latent_upscale_models"
    beside.mkdir()
    newest = beside / "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"
    for path in (beside / "ltx-2.3-spatial-upscaler-x2-1.0.safetensors", newest):
        tiny_parts.write_upscaler(tmp_path).rename(path)
    assert find_upscaler(others, 2.0).file.path.samefile(newest)


def test_the_distilled_lora_is_for_the_transformer_alone():
    second = SecondStage(lora="the LoRA")
    assert second.with_lora((), 0.5) == (("the LoRA", Strengths(0.5, text=0)),)
    assert second.with_lora((), 0) == SecondStage().with_lora((), 1.0) == ()


def test_a_schedule_from_another_level():
    sigmas = recipes.Refine().sigmas
    assert starting_at(sigmas, 0.8) == [0.8, 0.725, 0.421875, 0.0]
    assert starting_at(sigmas, 1.0) == [1.0, *sigmas] and starting_at(sigmas, 0.909375) == [*sigmas]


# Tiles in a whole run


@pytest.fixture(scope="module")
def refining(miniature):
    """Two steps of refining on the miniature, with unseen contexts; keeps what its bar shows."""
    network = ltx2.build(miniature, "transformer", torch.float32)
    config, fps = network.config, Fraction(24)
    generator = torch.Generator().manual_seed(0)
    contexts = Contexts(*(torch.randn(1, 16, config.caption_width, generator=generator) for _ in ("video", "audio")))
    begin = latents.empty(ClipShape(192, 160, 17, fps)).map(lambda x: torch.randn(x.shape, generator=generator))

    def run(**settings):
        shown = []

        def on_step(done, total, step):
            shown.append((done, total))

        settings = {"contexts": contexts, "sigmas": [0.7, 0.4, 0.0], "on_step": on_step} | settings
        with torch.inference_mode():
            return sample(network, begin, fps=fps, **settings), shown

    return begin, run


@pytest.mark.parametrize("together", [True, False])
def test_one_tile_is_the_whole_bit_for_bit(refining, together):
    _, run = refining
    whole, shown = run()
    tiled, also_shown = run(tiles=Tiles((1, 1, 1)), together=together)
    assert torch.equal(tiled.video, whole.video) and torch.equal(tiled.audio, whole.audio)
    assert also_shown == shown == [(1, 2), (2, 2)]


@pytest.mark.slow
def test_tiles_one_by_one_show_how_far_they_are(refining):
    begin, run = refining
    apart, shown = run(tiles=Tiles((1, 2, 2), (1, 1, 1)), together=False)
    assert shown == [(n, 10) for n in range(1, 11)]  # the sound first
    together, shown = run(tiles=Tiles((1, 2, 2), (1, 1, 1)))
    assert shown == [(1, 2), (2, 2)] and not torch.equal(apart.video, together.video)
    held, shown = run(tiles=Tiles((1, 2, 2), (1, 1, 1)), together=False, items=[Frozen("audio")])
    assert len(shown) == 8 and torch.equal(held.audio, begin.audio)
    with pytest.raises(ValueError, match="one by one begin with noise"):
        run(tiles=Tiles((1, 2, 2)), together=False, add_noise=False)


@pytest.mark.slow
def test_a_clip_in_two_stages_and_its_seams(miniature, spatial):
    progress, stages = [], {}
    tiles = Tiles((2, 2, 2), (1, 2, 2))

    def report(stage, done, total):
        progress.append(stage)
        stages[stage] = total

    clip = ltx2.generate(miniature, PROMPT, second=SecondStage((spatial,), tiles=tiles), on_progress=report, **SMALL)
    assert clip.frames.shape == (17, 128, 192, 3) and clip.waveform.shape[1] == round(17 / 24 * clip.sample_rate)
    assert stages == {"prompt": 2, "sampling": 2, "refining": len(recipes.RECIPES["miniature"].refine.sigmas) - 1,
                      "sound": 1, "frames": stages["frames"]}  # fmt: skip
    whole = ltx2.generate(miniature, PROMPT, second=SecondStage((spatial,), tiles=Tiles((1, 1, 1))), **SMALL)

    def seen(clip):
        seams = Seams(*tiles.seams(clip.latent.video.shape[2:]))
        seams.see(clip.frames[None])
        return seams.measure()

    assert seen(clip) == pytest.approx(seen(whole), rel=0.05)


@pytest.mark.slow
def test_seams_are_told(miniature, spatial, monkeypatch):
    monkeypatch.setattr("ltx2_core.health.SEAM", 0.1)
    found = []
    second = SecondStage((spatial,), tiles=Tiles((1, 1, 2)))
    clip = ltx2.generate(miniature, PROMPT, second=second, on_finding=found.append, **SMALL)
    assert clip.frames.shape[0] == 17
    assert any("shows seams" in str(each) for each in found)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.slow
def test_the_sound_that_ships_is_the_one_of_the_recipe(miniature, spatial, monkeypatch, keeps):
    first = ltx2.generate(miniature, PROMPT, **SMALL | {"width": 96, "height": 64})
    row = recipes.RECIPES["miniature"]
    monkeypatch.setitem(recipes.RECIPES, "miniature", replace(row, refine=replace(row.refine, keeps_sound=keeps)))
    second = ltx2.generate(miniature, PROMPT, second=SecondStage((spatial,)), **SMALL)
    assert torch.equal(first.latent.audio, second.latent.audio) == keeps


@pytest.mark.slow
def test_a_sound_that_is_held_stays_and_leads_the_picture(miniature, spatial, monkeypatch):
    first = ltx2.generate(miniature, PROMPT, **SMALL | {"width": 96, "height": 64})
    row = recipes.RECIPES["miniature"]
    monkeypatch.setitem(recipes.RECIPES, "miniature", replace(row, refine=replace(row.refine, keeps_sound=False)))
    held, anew = (
        ltx2.generate(miniature, PROMPT, second=SecondStage((spatial,), sound=sound), **SMALL)
        for sound in ("hold", "refine")
    )
    assert torch.equal(held.latent.audio, first.latent.audio)
    assert not torch.equal(anew.latent.audio, first.latent.audio)
    assert not torch.equal(held.latent.video, anew.latent.video)


@pytest.mark.slow
def test_motion_speed_counts_in_both_stages_and_tones_between_them(miniature, spatial, monkeypatch):
    told, name = [], "ltx2_core.pipeline.sample.apply_conditions"
    monkeypatch.setattr(name, lambda x, fps, *rest: told.append(fps) or apply_conditions(x, fps, *rest))
    few = SMALL | {"frames": 9, "motion_speed": 0.2}
    clips = [
        ltx2.generate(miniature, PROMPT, second=SecondStage((spatial,), **tones), **few)
        for tones in ({}, {"adain_factor": 1.0}, {"tone_map_compression": 1.0})
    ]
    assert told == [120] * 6 and len(clips[0].frames) == 9
    assert all(not torch.equal(clips[0].latent.video, each.latent.video) for each in clips[1:])


@pytest.mark.slow
def test_twice_the_frame_rate(miniature, temporal):
    second = SecondStage((temporal,), refine=False)
    clip = ltx2.generate(miniature, PROMPT, second=second, **SMALL)
    assert clip.fps == 48 and clip.frames.shape == (33, 128, 192, 3)
    assert clip.waveform.shape[1] == round(33 / 48 * clip.sample_rate)
    film = KeepVideo(VideoSource(torch.rand(17, 128, 192, 3)))
    kept = ltx2.generate(miniature, PROMPT, second=SecondStage((temporal,)), conditions=[film], **SMALL)
    assert torch.equal(kept.frames[::2], film.video.source), "as many seconds of it, not as many frames"
    with pytest.raises(ValueError, match="one prompt for the whole clip"):
        ltx2.generate(miniature, PROMPT, second=SecondStage(), segments=[Segment(0.3, "a blue ball")], **SMALL)
    with pytest.raises(ValueError, match="Sound alone has no second stage"):
        ltx2.generate(miniature, PROMPT, second=second, sound_only=True, **SMALL)


@pytest.mark.parametrize("vram", [None, 2**30])
@pytest.mark.slow
def test_the_command_line(tmp_path, capsys, vram):
    """Also on a pretended card, whose plan has the stages."""
    size = ["--width", "128", "--height", "128", "--frames", "9", "--steps", "1", "--no-cache"]
    card = [] if vram is None else ["--vram", str(vram / 2**30)]
    command = ["generate", "--prompt", PROMPT, "--output", str(tmp_path / "clip.mp4"), *size, *card]
    assert main([*command, "--upscale", "2", "--refine", "--tiles", "1x1x2"]) == 0
    assert (tmp_path / "clip.mp4").is_file()
    assert main([*command, "--upscale", "1.5", "--refine"]) == 2
    assert "enlarges by 2, but --upscale is 1.5" in capsys.readouterr().err
    assert main([*command, "--hq"]) == 2
    assert "no HQ recipe for LTX-2.0" in capsys.readouterr().err


# The miniature's upscaler


def test_an_upscaler_is_known_by_its_file(tmp_path, capsys):
    kind = {"rational_resampler": True, "spatial_scale": 1.5}
    assert main(["inspect", str(BUILT_IN), str(tiny_parts.write_upscaler(tmp_path, kind))]) == 0
    said = capsys.readouterr().out
    assert "upscaler-mini.safetensors: latent upscaler of LTX-2, enlarges space by 2, 0.4 MB" in said
    assert "enlarges space by 1.5" in said


def test_it_is_official_and_small(spatial):
    official = pytest.importorskip("ltx_core.model.upsampler")
    assert BUILT_IN.stat().st_size < 2**20
    theirs = official.LatentUpsamplerConfigurator.from_config(spatial.file.config)
    theirs.load_state_dict({key: spatial.file.get(key).float() for key in spatial.file.entries})
    latent = torch.randn(1, 128, 3, 3, 3)
    with torch.inference_mode():
        ours = build_upscaler(spatial, torch.float32)
        assert_close(ours(latent), theirs(latent.clone()), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.slow
def test_it_shows_the_same_ball_in_a_larger_room(miniature, spatial):
    """On clips that it has not seen: most of what varies."""
    small, large = pairs(ltx2.build(miniature, "video_encoder", torch.float32), 4, seed=99)
    made, _ = upscale(
        build_upscaler(spatial, torch.float32), AVLatent(small, None), Fraction(24), video_statistics(miniature)
    )
    rest = large - large.mean((0, 2, 3, 4), keepdim=True)
    assert (made.video - large).square().mean() < 0.15 * rest.square().mean()
