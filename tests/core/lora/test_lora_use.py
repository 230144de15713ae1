"""LoRAs on the way from a prompt to a clip: strengths as people write them, and what a run does with them."""

import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import ltx2_core as ltx2
from ltx2_core.__main__ import main
from ltx2_core.checkpoint import CheckpointError
from ltx2_core.checkpoint.prompt_cache import prompt_cache
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.cli.syntax import parse_lora
from ltx2_core.errors import SettingError
from ltx2_core.fields import settings_of
from ltx2_core.lora import Strengths, StrengthSchedule, compare, open_lora
from ltx2_core.lora.names import STREAMS
from ltx2_core.lora.stack import for_component, text_identity
from ltx2_core.lora.strengths import parse_blocks, parse_schedule
from ltx2_core.memory import Store
from ltx2_core.memory.link import Plain
from ltx2_core.memory.unit import UNCHANGED, Changes
from ltx2_core.pipeline.engines.prepare import Prepared, adapters_of, joined
from ltx2_core.pipeline.stage import TRANSFORMER
from ltx2_core.sampling import Guidance
from ltx2_core.settings import check_limits

SMALL = {"width": 64, "height": 64, "frames": 9, "steps": 2, "video": Guidance(), "audio": Guidance(), "cache": False}
SMALL |= {"device": "cpu"}


def test_nothing_stands_beside_a_network_without_loras():
    """Then nobody looks through its names, of which a clip would do so for each network at each use."""
    network = nn.Linear(2, 2)
    adapters = adapters_of([network], TRANSFORMER, (), torch.device("cpu"))
    assert adapters == () and Prepared((network,), Store(network, "cpu"), adapters).changes is UNCHANGED


@pytest.fixture
def lora(models, tmp_path):
    """For two layers of the transformer, and one of a connector."""
    layers = [
        "transformer_blocks.0.attn1.to_q",
        "transformer_blocks.1.audio_ff.net.2",
        "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q",
    ]
    torch.manual_seed(0)
    tensors = {}
    for layer in layers:
        key = f"model.diffusion_model.{layer}.weight"
        out, width = models.files[0].shape(key)
        tensors[f"diffusion_model.{layer}.lora_A.weight"] = torch.randn(2, width)
        tensors[f"diffusion_model.{layer}.lora_B.weight"] = torch.randn(out, 2)
    save_file(tensors, tmp_path / "small.safetensors")
    return open_lora(tmp_path / "small.safetensors")


@pytest.mark.parametrize(
    "text, path, strengths",
    [
        ("a.safetensors", "a.safetensors", Strengths()),
        ("a.safetensors:0.8", "a.safetensors", Strengths(0.8)),
        ("a.safetensors:-1:audio=0,video_to_audio=.5", "a.safetensors", Strengths(-1, audio=0, video_to_audio=0.5)),
        ("a.safetensors:text=2", "a.safetensors", Strengths(text=2)),
        (r"C:\loras\a.safetensors:0.8", r"C:\loras\a.safetensors", Strengths(0.8)),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", Strengths()),
    ],
)
def test_strengths_as_they_are_written(text, path, strengths):
    assert parse_lora(text, 48)[:2] == (Path(path), strengths)


@pytest.mark.parametrize(
    "text, words", [("a:1:sound=0", "names 'sound'"), ("a:1:video=loud", "'loud' is not a number")]
)
def test_strengths_that_nobody_has(text, words):
    with pytest.raises(ValueError, match=words):
        parse_lora(text, 48)


def test_blocks_and_schedules_as_they_are_written():
    assert parse_blocks("0-3, 7", 8) == {0, 1, 2, 3, 7}
    assert parse_blocks("all", 8) is None and parse_schedule("constant") is None
    halfway = parse_schedule("1.0: 1, 0.5: 0")
    assert [halfway(sigma) for sigma in (1.0, 0.75, 0.5, 0.0)] == [1.0, 0.5, 0.0, 0.0]


def latent(models, *loras, **more):
    return ltx2.generate(models, "x", loras=loras, **SMALL | more).latent


@pytest.mark.slow
@pytest.mark.usefixtures("unheard")
def test_a_clip_with_a_lora(models, lora):
    plain, with_it = latent(models), latent(models, (lora, Strengths()))
    assert not torch.equal(plain.video, with_it.video) and not torch.equal(plain.audio, with_it.audio)
    for none in (Strengths(0), Strengths(text=0, schedule=StrengthSchedule.through([(1.0, 0.0)]))):
        same = latent(models, (lora, none))
        assert torch.equal(plain.video, same.video) and torch.equal(plain.audio, same.audio)


@pytest.mark.slow
@pytest.mark.parametrize("over, points", [("steps", [(0, 1.0), (1, 0.0)]), ("sigmas", [(1.0, 1.0), (0.9, 0.0)])])
@pytest.mark.usefixtures("unheard")
def test_a_schedule_follows_the_run(models, lora, over, points):
    """Of two steps only the first one gets the LoRA."""
    asked = []

    def first(moment):
        asked.append(moment)
        return StrengthSchedule.through(points)(moment)

    sigmas = [1.0, 0.6, 0.0]
    plain, constant = latent(models, sigmas=sigmas), latent(models, (lora, Strengths(text=0)), sigmas=sigmas)
    found = latent(models, (lora, Strengths(text=0, schedule=first, schedule_over=over)), sigmas=sigmas)
    assert {*asked} == ({0, 1} if over == "steps" else {1.0, 0.6})
    assert not torch.equal(found.video, plain.video) and not torch.equal(found.video, constant.video)


def test_changes_reach_the_right_one_of_several_networks():
    networks = nn.Linear(4, 4, bias=False).requires_grad_(False), nn.Linear(4, 4, bias=False).requires_grad_(False)
    before = [network.weight.clone() for network in networks]
    store = Store(joined(networks), "cpu", link=Plain(torch.device("cpu")))
    store.set_budget(2**20)
    store.patch(Changes({"1.weight": lambda weight: weight.add_(1)}))
    with store.use() as (first, second):
        assert torch.equal(first.weight, before[0]) and torch.equal(second.weight, before[1] + 1)
    store.release()
    assert all(torch.equal(network.weight, weight) for network, weight in zip(networks, before))


@pytest.mark.slow
@pytest.mark.usefixtures("unheard")
def test_fused_and_beside_give_the_same_run(models, lora, monkeypatch):
    """As on a card, where weights are changed when they are copied."""
    beside = latent(models, (lora, Strengths()))
    patch, patched = Store.patch, []

    def watched(self, patches):
        patched.extend(patches.patches)
        patch(self, patches)

    monkeypatch.setattr(Store, "patch", watched)
    monkeypatch.setattr("ltx2_core.pipeline.engines.prepare.fuses", lambda device: True)
    fused = latent(models, (lora, Strengths()), vram=2**30)
    assert len(patched) == 3 and {name.partition(".")[0] for name in patched} == {"0", "blocks"}
    for a, b in zip((fused.video, fused.audio), (beside.video, beside.audio)):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_a_lora_that_holds_no_numbers_is_named(models, lora, tmp_path, monkeypatch, fused):
    """Not the weights that it changed."""
    tensors = load_file(lora.path)
    tensors["diffusion_model.transformer_blocks.1.audio_ff.net.2.lora_B.weight"][0, 0] = math.nan
    save_file(tensors, tmp_path / "broken.safetensors")
    monkeypatch.setattr("ltx2_core.pipeline.engines.prepare.fuses", lambda device: fused)
    with pytest.raises(CheckpointError, match=r"audio_ff\.net\.2\.lora_B\.weight in broken\.safetensors holds NaN"):
        latent(models, (open_lora(tmp_path / "broken.safetensors"), Strengths()), vram=2**30 if fused else None)


def test_a_prompt_is_encoded_anew_where_a_lora_changes_that(models, lora, tmp_path):
    encoder = open_text_encoder(models.text_encoder)

    def identity(*loras, components=("text_features", "video_connector")):
        lora_identity = text_identity(loras, components)
        return prompt_cache(tmp_path, models, encoder, torch.float32, components, lora_identity).identity

    assert identity() == identity((lora, Strengths(0))) == identity((lora, Strengths(text=0)))
    others = {identity((lora, Strengths(strength))) for strength in (1.0, 0.5)} | {identity()}
    assert len(others) == 3
    assert text_identity(((lora, Strengths()),), ["text_features"]) == []
    scheduled = Strengths(schedule=math.sin)
    assert [
        for_component(((lora, scheduled),), name)[0][1].schedule for name in ("transformer", "video_connector")
    ] == [
        math.sin,
        None,
    ]


@pytest.mark.slow
def test_the_command_line(models, lora, tmp_path, capsys):
    checkpoint, arguments = str(models.files[0].path), ["--width", "64", "--height", "64", "--frames", "9"]
    arguments += ["--steps", "1", "--text-encoder", str(models.text_encoder), "--device", "cpu", "--prompt", "x"]
    target = str(tmp_path / "sound.wav")
    command = ["generate", "--checkpoint", checkpoint, "--output", target, "--no-cache", *arguments]
    assert main([*command, "--lora", f"{lora.path}:0.5:audio=0"]) == 0
    said = capsys.readouterr().err
    assert "small.safetensors: LoRA of rank 2, 3 layers; 3 fit LTX-2.3 (video 1, audio 1, audio to video 0" in said


@pytest.mark.slow
def test_a_lora_of_another_model_is_refused_before_anything_is_read(models, tmp_path, monkeypatch):
    tensors = {"double_blocks.0.lora_A.weight": torch.ones(2, 4), "double_blocks.0.lora_B.weight": torch.ones(4, 2)}
    save_file(tensors, tmp_path / "flux.safetensors")
    monkeypatch.setattr("ltx2_core.pipeline.engines.prepare.build", None)
    with pytest.raises(CheckpointError, match=r"flux\.safetensors changes nothing in this LTX-2\.3 model"):
        latent(models, (open_lora(tmp_path / "flux.safetensors"), Strengths()))


def test_strengths_are_settings_with_limits():
    settings = settings_of(Strengths)
    assert [*settings] == [field.name for field in fields(Strengths)]
    assert {name: setting.shown for name, setting in settings.items() if name not in ("strength", *STREAMS)} == {
        "blocks": "all",
        "schedule": "constant",
        "schedule_over": "sigmas",
    }
    for name in ("strength", *STREAMS):
        assert (settings[name].look.least, settings[name].look.most, settings[name].default) == (-10, 10, 1.0)
    with pytest.raises(SettingError, match="audio is 11; it must be between -10 and 10"):
        check_limits(Strengths(audio=11))


@pytest.mark.parametrize(
    ("strengths", "told"),
    [
        (Strengths(blocks=(2,), text=0), True),
        (Strengths(video=0, audio=0, text=0), True),
        (Strengths(blocks=(1, 2)), False),
        (Strengths(0, blocks=(2,)), False),
        (None, False),
    ],
)
def test_strengths_that_reach_no_layer_are_told(models, lora, strengths, told):
    report = compare(lora, models, strengths)
    assert ["it changes nothing" in text for text in (report.line, str(report))] == [told] * 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"blocks": "0-23"}, "blocks is '0-23'; it must be a list, of which each is a whole number"),
        ({"blocks": [3, -1]}, "blocks hold -1"),
        ({"schedule": "1.0: 1"}, "schedule is '1.0: 1'; it must be a function"),
    ],
)
def test_strengths_that_would_do_nothing_are_refused(given, said):
    with pytest.raises(SettingError, match=said):
        Strengths(**given)


def test_blocks_that_the_model_does_not_have_are_refused(models, lora):
    blocks = models.layers, models.layers + 1
    with pytest.raises(SettingError, match=f"blocks begin at {blocks[0]}; this model has {blocks[0]}, counted from 0"):
        latent(models, (lora, Strengths(blocks=blocks)))


def test_a_schedule_gives_a_number_at_every_moment():
    with pytest.raises(SettingError, match=r"gives nan at 0\.5"):
        Strengths(schedule=lambda sigma: sigma * math.nan).factor_at(0.5, 0)
    with pytest.raises(SettingError, match="A schedule needs points"):
        StrengthSchedule.through([(0, 1.0), (math.nan, 0.5)])
