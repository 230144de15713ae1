"""Training with our own networks: gradients against the official ones, and what the miniature's recipe rests on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from agreement import compare
from official import inputs, official, official_velocity, tiny_section
from safetensors.torch import load_file
from torch import nn

from ltx2_core.audio_vae import AudioDecoder
from ltx2_core.checkpoint import build, open_models
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.keys.transformer import TRANSFORMER
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.mini import world
from ltx2_core.mini.recipe import audio, export, flow, loras, video
from ltx2_core.mini.recipe.config import CONFIG
from ltx2_core.mini.recipe.stage import Stage

SHIPPED = MINIATURE / "ltx2-mini.safetensors"


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(4)
    return [world.sample_scene(rng) for _ in range(3)]


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_gradients_of_the_transformer_are_the_official_ones(version):
    section = tiny_section(version)
    theirs, ours = official(section)
    theirs.requires_grad_(True), ours.requires_grad_(True)
    streams = inputs(section, batch=2)
    for velocities in ours(*streams), official_velocity(theirs, *streams):
        sum(velocity.square().mean() for velocity in velocities).backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    prefix = TRANSFORMER.prefixes[0]
    found = {TRANSFORMER.official(name).removeprefix(prefix): p.grad for name, p in ours.named_parameters()}
    assert found.keys() == expected.keys() and all(gradient is not None for gradient in found.values())
    flat = [torch.cat([grads[name].flatten() for name in sorted(grads)]) for grads in (found, expected)]
    compare(f"gradients {version}", *flat)


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_a_recorded_transformer_gives_the_same_bits(version):
    section = tiny_section(version)
    _, network = official(section)
    streams = inputs(section, batch=2, sigma=(0.725, 0.5), first_frame=0.0)
    with torch.no_grad():
        plain = network(*streams)
    for a, b in zip(plain, network(*streams)):
        assert b.requires_grad and torch.equal(a, b)


@pytest.mark.parametrize("name", ["video_encoder", "video_decoder", "audio_encoder", "audio_decoder"])
def test_a_recorded_forward_is_the_same_but_for_rounding(name):
    """Under autograd convolutions are PyTorch's own."""
    network = build(open_models("miniature"), name, torch.float32)
    x = {
        "video_encoder": torch.rand(1, 3, 9, 64, 64) * 2 - 1,
        "video_decoder": torch.randn(1, 128, 2, 2, 2),
        "audio_encoder": torch.randn(1, 2, 21, 64),
        "audio_decoder": torch.randn(1, 8, 6, 16),
    }[name]
    with torch.inference_mode():
        plain = network(x)
    recorded = network.requires_grad_(True)(x)
    assert recorded.requires_grad
    assert (plain - recorded).abs().max() < 1e-5 * plain.abs().max()


@pytest.mark.slow
def test_a_stage_goes_on_where_it_was_left(tmp_path):
    def run(minutes: float) -> tuple[Stage, nn.Linear]:
        torch.manual_seed(0)
        network = nn.Linear(2, 1)
        stage = Stage(tmp_path / "line.pt", minutes, 1e-2, {"network": network})
        for _ in stage:
            stage.descend((network(torch.tensor([[1.0, 2.0]])) - 3).square().sum())
        return stage, network

    first, learnt = run(0.01)
    second, again = run(1e-9)
    assert 0 < first.step == second.step
    assert torch.equal(learnt.weight, again.weight)
    assert run(0.005)[0].step > first.step
    assert [path.name for path in tmp_path.iterdir()] == ["line.pt"]


@pytest.mark.slow
def test_the_quick_encoder_is_the_encoder(scenes):
    encoder = build(open_models("miniature"), "video_encoder", torch.float32)
    quick = video.QuickEncoder(encoder)
    for scene in scenes:
        pixels = video.rendered(scene)
        torch.testing.assert_close(encoder.statistics.normalize(quick(pixels)), encoder(pixels), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_an_encoder_is_fitted_to_what_clips_differ_in(tmp_path, scenes):
    video.fit_encoder(tmp_path, 0, "cpu", seed=0, scenes=6)
    encoder = video.load_encoder(tmp_path, "cpu")
    latents = torch.cat([encoder(video.rendered(scene)) for scene in scenes])
    used, empty = latents.split([48, 80], dim=1)
    assert torch.count_nonzero(empty) == 0 and used.std() > 0.3


def test_a_latent_of_sound_is_how_loud_it_is_and_how_far_left(tmp_path, scenes):
    audio.write_encoder(tmp_path, 0, "cpu", seed=0)
    encoder = audio.load_encoder(tmp_path, "cpu")
    mel = torch.cat([audio.mel_of(scene) for scene in scenes])
    latent = audio.encode(encoder, mel)
    own = mel[:, :, 1 : 4 * 33 + 1].unflatten(2, (33, 4)).unflatten(4, (16, 4)).mean((3, 5))
    loud, left = own.mean(1), own[:, 0] - own[:, 1]
    for found, expected in (latent[:, 0, 1:], loud), (latent[:, 1, 1:], left):
        assert torch.corrcoef(torch.stack((found.flatten(), expected.flatten())))[0, 1] > 0.999
    assert torch.count_nonzero(latent[:, 2:]) == 0


def test_a_widened_decoder_computes_the_same():
    torch.manual_seed(0)
    narrow = AudioDecoder(replace(audio.ARCHITECTURE, channels=audio.WIDTH)).requires_grad_(False)
    wide = COMPONENTS["audio_decoder"].make(CONFIG, {}).requires_grad_(False)
    wide.load_state_dict(audio.widened(narrow.state_dict()))
    latent = torch.randn(1, 8, 5, 16)
    torch.testing.assert_close(wide(latent), narrow(latent))
    again = audio.narrowed(wide.state_dict())
    assert all(torch.equal(value, again[name]) for name, value in narrow.state_dict().items())


@pytest.mark.slow
def test_what_is_adopted_is_exported_again(tmp_path):
    export.adopt(tmp_path)
    export.export(tmp_path, tmp_path / "again.safetensors")
    assert open_models(tmp_path / "again.safetensors").config == open_models("miniature").config
    shipped, again = load_file(SHIPPED), load_file(tmp_path / "again.safetensors")
    assert shipped.keys() == again.keys()
    assert [name for name in shipped if not torch.equal(shipped[name], again[name])] == []


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"statistics.*run the stage scenes"):
        export.export(tmp_path, tmp_path / "never.safetensors")


@pytest.mark.slow
def test_the_transformer_learns(tmp_path):
    """From scenes and captions that are encoded here, in some seconds; its loss falls, and it goes on where it was."""
    export.adopt(tmp_path)
    flow.encode_scenes(tmp_path, 0.01, "cpu", seed=0, workers=1)
    before = len(torch.load(tmp_path / "scenes.pt")["meanings"])
    flow.encode_scenes(tmp_path, 0.01, "cpu", seed=0, workers=1)
    scenes = torch.load(tmp_path / "scenes.pt")
    assert before < len(scenes["meanings"])
    assert len(scenes["video"].unique(dim=0)) == len(scenes["video"])  # no scene twice
    meanings = scenes["meanings"].unique().tolist()
    banks = {number: torch.randn(2, 12, 128, 64).half() for number in [*meanings, max(meanings) + 1]}
    torch.save({"banks": banks, "nothing": max(meanings) + 1}, tmp_path / "captions.pt")
    (tmp_path / "transformer.pt").unlink()
    flow.train_transformer(tmp_path, 0.03, "cpu", seed=0, batch=2)
    state = torch.load(tmp_path / "transformer.pt")
    assert state["step"] > 1  # whatever else the machine does
    fresh = flow.new_transformer().state_dict()
    moved = [name for name in fresh if not torch.equal(fresh[name], state["network"][name])]
    assert len(moved) > 0.9 * len(fresh)


@pytest.mark.slow
def test_a_lora_is_learnt_beside_the_transformer(tmp_path):
    from ltx2_core.lora import compare as fitting
    from ltx2_core.lora import open_lora

    lesson = replace(loras.LESSONS["ic-motion"], captions=2, takes=2)
    loras.LESSONS["short"] = lesson
    try:
        loras.train(tmp_path, 0.03, "cpu", seed=0, name="short")
    finally:
        del loras.LESSONS["short"]
    lora = open_lora(tmp_path / "short.safetensors")
    assert fitting(lora, open_models("miniature")).fitting == len(lora.layers) > 0
    raised = load_file(tmp_path / "short.safetensors")
    assert all(value.abs().max() > 0 for name, value in raised.items() if "lora_B" in name)


@pytest.mark.slow
def test_a_larger_room_is_encoded_as_it_is_put_together(scenes):
    encoder = build(open_models("miniature"), "video_encoder", torch.float32)
    clips = video.Clips(video.QuickEncoder(encoder), 3, np.random.default_rng(0), "cpu")
    for sizes in {}, {"latents": 7}, {"rows": 4, "columns": 5}:
        latents, pictures, balls = clips.draw(2, np.random.default_rng(1), **sizes)
        torch.testing.assert_close(encoder.statistics.normalize(latents), encoder(pictures), atol=1e-4, rtol=0)
        assert pictures.shape[2:] == balls.shape[2:] and 0 < balls.mean() < 0.1
