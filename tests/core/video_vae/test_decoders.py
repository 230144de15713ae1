"""Both decoders of LTX-2.5 behind one stage: found in files, planned, run, and told of."""

import json
import types
from dataclasses import replace

import pytest
import tiny_parts
import torch
from safetensors.torch import load_file, save_file

import ltx2_core as ltx2
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.checkpoint.versions import VERSIONS
from ltx2_core.cli import main
from ltx2_core.errors import CheckpointError, DoesNotFitError
from ltx2_core.memory import Room
from ltx2_core.memory.machine import machine_named
from ltx2_core.memory.ram import check_ram
from ltx2_core.pipeline.decode_video import DecodeVideo
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.generate import run
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.pipeline.plan import plan_stages
from ltx2_core.pipeline.stage import need_of
from ltx2_core.settings import Request
from ltx2_core.video_vae import Denoising, DiffusionDecoder, Tiling, VideoDecoder
from ltx2_core.video_vae.diffusion_config import RELEASED

LATENT = torch.randn((1, 128, 2, 2, 3), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return tiny_parts.write_diffusion_vae(tmp_path_factory.mktemp("vae"))


def models_with(tiny_files, vae):
    checkpoint, gemma, _ = tiny_files("2.5")
    return ltx2.open_models(checkpoint, gemma, video_vae=vae)


def frames(models, **decoding) -> torch.Tensor:
    stage = DecodeVideo(tuple(LATENT.shape[2:]), denoising=Denoising(**decoding))
    return stage.collect(LocalEngine(models), LATENT)


def drawn(config: dict) -> Blueprint:
    """A release's decoder alone."""
    with torch.device("meta"):
        state = COMPONENTS["video_decoder"].make(config, {}).state_dict()
    return Blueprint("drawn", config, {"video_decoder": {name: x.bfloat16() for name, x in state.items()}}, None)


def test_the_file_says_which_decoder_it_has(tiny_files, vae):
    models = models_with(tiny_files, vae)
    decoder = ltx2.build(models, "video_decoder", torch.float32)
    assert isinstance(decoder, DiffusionDecoder) and decoder.config.steps == 1
    assert models.config["vae"]["_class_name"] == "CausalDiffusionVAE"
    assert models.network("video_encoder").config.latent_channels == 128
    plain = ltx2.open_models(*tiny_files("2.5")[:2])
    assert isinstance(ltx2.build(plain, "video_decoder", torch.float32), VideoDecoder)


@pytest.mark.slow
def test_gates_and_previews_in_a_file_are_read_and_left_out(tiny_files, vae, tmp_path):
    tensors, config = load_file(vae), {"config": json.dumps({"vae": tiny_parts.DIFFUSION_VAE})}
    norms = [key for key in tensors if key.endswith(".norm1.weight")]
    for block, norm in [(key.removesuffix(".norm1.weight"), tensors[key]) for key in norms]:
        kinds = ("msa", "mlp", "ctx") if "diff_blocks" in block else ("msa", "mlp")
        tensors |= {f"{block}.gate_{kind}": torch.ones_like(norm) for kind in kinds}
    tensors |= {"decoder.coarse_head.weight": torch.ones(4, 4), "decoder.type_emb": torch.ones(128)}
    save_file(tensors, tmp_path / "old.safetensors", config)
    old, new = models_with(tiny_files, tmp_path / "old.safetensors"), models_with(tiny_files, vae)
    assert ltx2.build(old, "video_decoder").config.gates and not ltx2.build(new, "video_decoder").config.gates
    torch.testing.assert_close(frames(old), frames(new), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_file_that_disagrees_with_its_config_is_refused(tiny_files, vae, tmp_path):
    save_file(load_file(vae), tmp_path / "bare.safetensors")
    models = models_with(tiny_files, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="describes a convolutional decoder, but the tensors are those of a diff"):
        ltx2.build(models, "video_decoder")
    checkpoint, *_ = tiny_files("2.5")
    tensors = {key: value for key, value in load_file(checkpoint).items() if key.startswith("vae.")}
    config = {"config": json.dumps({"vae": tiny_parts.DIFFUSION_VAE})}
    save_file(tensors, tmp_path / "wrong.safetensors", config)
    with pytest.raises(CheckpointError, match="describes a diffusion decoder, but the tensors are those of a conv"):
        ltx2.build(models_with(tiny_files, tmp_path / "wrong.safetensors"), "video_decoder")


@pytest.mark.slow
def test_frames_depend_on_the_decoders_seed_and_steps(tiny_files, vae):
    models = models_with(tiny_files, vae)
    first = frames(models)
    assert first.shape == (1, 9, 64, 96, 3) and torch.equal(first, frames(models, decoder_seed=0, decoder_steps=1))
    for changed in ({"decoder_seed": 1}, {"decoder_steps": 3}):
        assert not torch.equal(first, frames(models, **changed))
    plain = ltx2.open_models(*tiny_files("2.5")[:2])
    assert torch.equal(frames(plain), frames(plain, decoder_seed=5, decoder_steps=3))


@pytest.mark.slow
def test_the_seed_is_written_into_the_file(tiny_files, vae, tmp_path):
    av = pytest.importorskip("av")
    checkpoint, gemma, _ = tiny_files("2.5")
    request = Request.of("a ball", width=64, height=64, frames=9, steps=1, decoder_seed=7)
    assert request.decoding == Denoising(decoder_seed=7)
    clip = run(models_with(tiny_files, vae), request)
    assert clip.decoder_seed == 7 and clip.tags["decoder_seed"] == "7" and clip.frames.shape == (9, 64, 64, 3)
    assert run(ltx2.open_models(checkpoint, gemma), request).tags.keys() == {"parameters"}
    target = tmp_path / "clip.mp4"
    small = ["--width", "64", "--height", "64", "--frames", "9", "--steps", "1", "--decoder-seed", "8"]
    files = ["--checkpoint", str(vae), str(checkpoint), "--text-encoder", str(gemma)]
    main(["generate", *files, "--prompt", "a ball", *small, "--output", str(target)])
    with av.open(str(target)) as container:
        assert container.metadata["decoder_seed"] == "8"


@pytest.mark.slow
def test_a_plan_takes_the_largest_tiles_that_fit():
    blueprint = drawn({"vae": RELEASED})
    stage = DecodeVideo((16, 16, 24))  # 768 x 512, 121 frames
    chosen = [
        stage.fit(blueprint, Room(machine_named("4090"), int(budget * 1e9))).tiling.tile_size for budget in (20, 9, 4)
    ]
    assert chosen == [4096, 512, 320]
    assert stage.fit(blueprint, Room(machine_named("4090"), None)).tiling == Tiling(768, 160, 128, 40)
    asked = replace(stage, tiling=Tiling(512, 64, 80, 24)).fit(blueprint, Room(machine_named("4090"), None))
    assert asked.tiling == Tiling(512, 160, 80, 40)
    small = stage.fit(blueprint, Room(machine_named("4090"), 9 * 10**9))
    whole = stage.fit(blueprint, Room(machine_named("4090"), 20 * 10**9))
    assert need_of(small, blueprint).peak <= 9e9 < need_of(whole, blueprint).peak
    beside, smaller = small.remarks(blueprint, machine_named("4090"))
    assert "times what the convolutional one" in beside and "512 pixels and 88 frames instead of 768 and 128" in smaller
    assert whole.describe_tiles() == "Frames are decoded all at once."


@pytest.mark.slow
@pytest.mark.parametrize(
    "version, size, tiles",
    [("2.5", (61, 22, 40), ("320, none", "512, RAM")), ("2.3", (16, 68, 120), ("256", "640, RAM"))],
    ids=["20 s of 720p", "5 s of 4K"],
)
def test_frames_wait_in_ram_where_that_makes_tiles_larger(version, size, tiles):
    """On a card of 8 GB, where the diffusion decoder has no room for the first clip otherwise."""
    blueprint = drawn({"vae": RELEASED if version == "2.5" else VERSIONS[version].config["vae"]})
    card, stage = machine_named("4060"), DecodeVideo(size)
    told = []
    for ram in (0, 17 * 10**9):
        room = Room(card, card.budget, free=ram)
        plan = plan_stages([stage], blueprint, room)
        (chosen,) = plan.stages
        refused = "more RAM, in which frames may wait" in plan.explain()
        assert plan.fits is (need_of(chosen, blueprint).peak <= card.budget) is not refused
        assert chosen.in_ram is ("frames wait in RAM" in plan.explain())
        told.append(f"{chosen.tiling.tile_size}{', RAM' * chosen.in_ram}{', none' * refused}")
    assert tuple(told) == tiles
    assert not stage.fit(blueprint, Room(card, card.budget, 32 * 10**9, in_ram=True)).in_ram


def test_a_clip_that_is_held_whole_is_refused_where_the_ram_is_too_small():
    """20 s of 1080p are 12.1 GB; what is written frame by frame, as on the command line, needs no such room."""
    blueprint = drawn({"vae": VERSIONS["2.3"].config["vae"]})
    card, stage = machine_named("4090"), DecodeVideo((61, 34, 60))

    def plan(free, **changes):
        return plan_stages([replace(stage, **changes)], blueprint, Room(card, card.budget, free=free))

    (refusal,) = plan(12 * 10**9, whole=True).refusals
    assert "1920 x 1088 pixels and 481 frames needs about 12.1 GB of RAM at once, and 12.0 GB are free" in refusal
    assert "--latent FILE" in refusal
    assert plan(13 * 10**9, whole=True).fits and plan(12 * 10**9).fits
    assert "1.0 GB are free" in replace(stage, whole=True).refuse(Room(card, 10**9, in_ram=True))


def test_a_clip_that_does_not_fit_the_ram_now_is_refused_before_it_is_decoded(monkeypatch):
    cleared = []
    monkeypatch.setattr("ltx2_core.memory.ram.ram", lambda: (16 * 10**9, 10**6))
    with pytest.raises(DoesNotFitError, match=r"2 clips of 96 x 64 pixels and 9 frames needs .* 0\.0 GB are free"):
        DecodeVideo((2, 2, 3), batch=2).collect(types.SimpleNamespace(clear_ram=cleared.append), LATENT)
    assert cleared == [4 * 2 * 9 * 64 * 96 * 3]
    monkeypatch.setattr("ltx2_core.memory.ram.ram", lambda: (0, 0))
    check_ram(10**12, "Whatever", "nobody knows")


def test_a_plan_for_the_convolutional_decoder_compares_nothing():
    blueprint = drawn({"vae": VERSIONS["2.3"].config["vae"]})
    stage = DecodeVideo((4, 8, 8)).fit(blueprint, Room(machine_named("4090"), None))
    assert stage.tiling == Tiling() and stage.remarks(blueprint, machine_named("4090")) == ()
    assert stage.seed(blueprint) is None


def test_the_tensors_say_what_is_planned_where_the_config_does_not():
    """As of a repacked file without metadata beside a transformer of another release."""
    shapes = {name: tuple(x.shape) for name, x in drawn({"vae": RELEASED}).tensors["video_decoder"].items()}
    with torch.device("meta"):
        made = COMPONENTS["video_decoder"].make({"vae": VERSIONS["2.3"].config["vae"]}, shapes)
    assert isinstance(made, DiffusionDecoder)


@pytest.mark.slow
def test_the_plan_of_a_model_with_a_diffusion_decoder_is_made(tiny_files, vae):
    models = models_with(tiny_files, vae)
    dtypes = dict.fromkeys((*models.sources, "text_encoder"), torch.float32)
    blueprint = Blueprint.of_files(models, open_text_encoder(tiny_files("2.5")[1]), dtypes)
    stage = DecodeVideo((3, 4, 4))
    assert need_of(stage, blueprint).work_bytes > 0 and stage.remarks(blueprint, machine_named("4090")) == ()
    assert stage.seed(blueprint) == 0
