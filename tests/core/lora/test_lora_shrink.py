"""LoRAs of a lower rank: what is lost of each change, and what stays as it was."""

import json
import math
import shutil

import pytest
import torch
from lora_files import BLOCK, IN, OUT, RANK, changes, factors, off, written
from peak import Peak
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core.cli import main
from ltx2_core.errors import CheckpointError, SettingError, TargetExistsError, UnreadableFileError
from ltx2_core.lora import open_lora
from ltx2_core.lora.shrink import shrink_lora


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """Layers whose energy is in 3, 8 and all of their directions, one of zeros, a bias, and metadata."""
    layers = {
        f"{BLOCK}.0.attn1.to_q": factors([4, 3, 1]),
        f"{BLOCK}.1.attn1.to_q": factors([2.0] * 8, 1),
        f"{BLOCK}.2.attn1.to_q": factors([1.0] * RANK, 2),
        f"{BLOCK}.3.attn1.to_q": {"up": torch.zeros(OUT, RANK), "down": torch.randn(RANK, IN)},
    }
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    metadata = {"reference_downscale_factor": "2", "model_version": "2.3"}
    return written(path, layers, metadata=metadata, **{f"{BLOCK}.0.attn1.to_q.diff_b": torch.randn(OUT)})


@pytest.mark.parametrize(("energy", "ranks"), [(0.9, [2, 7, 20, 1]), (0.99, [3, 8, 24, 1]), (0.5, [1, 2, 6, 1])])
def test_the_lowest_rank_that_keeps_the_energy(lora, tmp_path, energy, ranks):
    """0.9 of the norm is 0.81 of the squares: 16 + 9 of 26, 7 of 8, 20 of 24."""
    done = shrink_lora(lora, tmp_path / "x.safetensors", energy)
    assert [layer.rank for layer in done.layers] == [(RANK, rank) for rank in ranks]
    found, wanted = changes(tmp_path / "x.safetensors"), changes(lora)
    assert found.keys() == wanted.keys() and len(found) == 5
    lost = total = 0.0
    for layer, number in zip(done.layers, range(4)):
        name = f"blocks.{number}.video.self_attn.q.weight"
        lost += float((found[name] - wanted[name]).square().sum())
        total += float(wanted[name].square().sum())
        assert layer.error <= math.sqrt(1 - energy**2) + 1e-6
        assert number == 3 or off(found[name], wanted[name]) == pytest.approx(layer.error, abs=1e-4)
    assert done.error == pytest.approx(math.sqrt(lost / total), abs=1e-4)
    assert not found["blocks.3.video.self_attn.q.weight"].any()
    bias = "blocks.0.video.self_attn.q.bias"
    assert torch.equal(found[bias], wanted[bias])
    assert done.nbytes[1] == (tmp_path / "x.safetensors").stat().st_size < done.nbytes[0]


def test_names_types_and_metadata_stay(lora, tmp_path):
    state = {key: value.bfloat16() for key, value in load_file(lora).items()}
    with safe_open(lora, "pt") as file:
        save_file(state, tmp_path / "x.safetensors", file.metadata())
    shrink_lora(tmp_path / "x.safetensors", tmp_path / "y.safetensors", rank=5)
    found = load_file(tmp_path / "y.safetensors")
    assert found.keys() == state.keys() and {each.dtype for each in found.values()} == {torch.bfloat16}
    assert open_lora(tmp_path / "y.safetensors").downscale == 2
    wanted, made = changes(tmp_path / "x.safetensors"), changes(tmp_path / "y.safetensors")
    name = "blocks.0.video.self_attn.q.weight"  # has three directions, so that five lose nothing but digits
    assert off(made[name], wanted[name]) < 0.01


SETTINGS = {"r": RANK, "lora_alpha": 6.0, "use_rslora": True}


@pytest.mark.parametrize("stated", ["alpha", "header", "beside", "nothing"])
def test_the_scale_stays_wherever_it_is_said(tmp_path, stated):
    layer, path, new = factors([4, 3, 1]), tmp_path / "adapter_model.safetensors", tmp_path / "new" / "x.safetensors"
    layer |= {"alpha": torch.tensor(6.0)} if stated == "alpha" else {}
    header = {"lora_adapter_metadata": json.dumps(SETTINGS)} if stated == "header" else None
    names = ("lora_up", "lora_down") if stated == "alpha" else ("lora_B", "lora_A")
    written(path, {f"{BLOCK}.0.attn1.to_q": layer}, names, header)
    if stated == "beside":
        (tmp_path / "adapter_config.json").write_text(json.dumps(SETTINGS))
    name, scales = "blocks.0.video.self_attn.q.weight", {"alpha": 6 / 24, "nothing": 1}
    (wanted,) = changes(path).values()
    assert off(wanted, scales.get(stated, 6 / math.sqrt(24)) * layer["up"] @ layer["down"]) < 1e-4
    shrink_lora(path, new, rank=3)
    assert open_lora(new).deltas["transformer"][name].rank == 3
    assert off(changes(new)[name], wanted) < 1e-4  # nothing beside it here
    assert ("alpha" in str(load_file(new).keys())) == (stated != "nothing")


@pytest.mark.parametrize("settings", [None, {"lora_adapter_metadata": json.dumps(SETTINGS)}], ids=["plain", "peft"])
@pytest.mark.parametrize("rank", [None, RANK - 1])
def test_a_rank_above_a_side_of_the_matrix_comes_down_to_it(tmp_path, rank, settings):
    """As that of the gates of attention, which have an output for each head and the rank of the whole LoRA."""
    layer = {"up": torch.randn(8, RANK), "down": torch.randn(RANK, IN)}
    path = written(tmp_path / "x.safetensors", {f"{BLOCK}.0.attn1.to_gate_logits": layer}, metadata=settings)
    done = shrink_lora(path, tmp_path / "y.safetensors", rank=rank)
    assert done.layers[0].rank == (RANK, 8) and done.error == 0
    (found,), (wanted,) = changes(tmp_path / "y.safetensors").values(), changes(path).values()
    assert off(found, wanted) < 1e-5


def test_layers_of_gemma_and_of_other_networks_shrink_too(tmp_path):
    layers = {"text_encoders.model.layers.1.self_attn.q_proj": factors([1.0]), "unet.what.ever": factors([2.0])}
    path = written(tmp_path / "x.safetensors", {f"{BLOCK}.0.attn1.to_q": factors([3.0]), **layers})
    done = shrink_lora(path, tmp_path / "y.safetensors", 0.999)
    assert [layer.rank for layer in done.layers] == [(RANK, 1)] * 3 and done.error < 1e-3


def test_a_large_matrix_is_never_made(tmp_path):
    up, down = torch.randn(2048, 8), torch.randn(8, 2048)
    path = written(
        tmp_path / "x.safetensors",
        {f"{BLOCK}.{n}.ff.net.0.proj": {"up": up.clone(), "down": down.clone()} for n in range(9)},
    )
    with Peak() as peak:
        shrink_lora(path, tmp_path / "y.safetensors", rank=4)
    file = path.stat().st_size  # which is mapped, layer by layer, and counts
    assert peak.bytes - file < 6 * (up.nbytes + down.nbytes) < 2048 * 2048 * 4 / 8


def test_what_cannot_be_shrunk_is_said_and_leaves_nothing(lora, tmp_path):
    broken, other = tmp_path / "broken.safetensors", tmp_path / "other.safetensors"
    state = load_file(lora)
    state[f"{BLOCK}.1.attn1.to_q.lora_A.weight"][0, 0] = torch.nan
    save_file(state, broken)
    save_file({f"{BLOCK}.0.attn1.to_q.diff": torch.ones(4, 4)}, other)
    huge = tmp_path / "huge.safetensors"
    save_file({key: value * 1e25 for key, value in load_file(lora).items()}, huge)
    large = tmp_path / "large.safetensors"
    save_file({key: torch.full(value.shape, 6e4).half() for key, value in load_file(lora).items()}, large)
    same = shutil.copy(lora, tmp_path / "same.safetensors")
    before = sorted(path.name for path in tmp_path.iterdir())
    for source, target, wish, kind, said in (
        (lora, "y.safetensors", {"energy": 1.5}, SettingError, "energy is 1.5; it must be above 0 and at most 1"),
        (lora, "y.safetensors", {"energy": math.nan}, SettingError, "energy is nan"),
        (lora, "y.safetensors", {"rank": 0}, SettingError, "rank is 0; it must be at least 1"),
        (lora, "y.pt", {}, SettingError, r"y\.pt is to be a LoRA, which \.safetensors files hold"),
        (lora, "same.safetensors", {}, TargetExistsError, "exists already"),
        (same, "same.safetensors", {"overwrite": True}, TargetExistsError, "written over itself"),
        (broken, "y.safetensors", {}, CheckpointError, r"1\.attn1\.to_q\.lora_A\.weight in broken.* NaN"),
        (huge, "y.safetensors", {}, CheckpointError, r"huge\.safetensors has numbers in .* beyond all"),
        (
            large,
            "y.safetensors",
            {"rank": 2},
            CheckpointError,
            r"large\.safetensors has such large .* the float16",
        ),
        (lora, "y.safetensors", {"energy": "much"}, SettingError, "energy is "),
        (5, "y.safetensors", {}, SettingError, "source is '5'"),
        (other, "y.safetensors", {}, CheckpointError, "no layer that is a product of two matrices"),
        # before the damage is met, so before any layer is taken apart
        (broken, "same.safetensors/y.safetensors", {}, UnreadableFileError, "cannot be written"),
    ):
        with pytest.raises(kind, match=said):
            shrink_lora(source, tmp_path / target, **wish)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("sides", [(0, 16, 4), (16, 0, 4), (16, 16, 0)])
def test_a_layer_without_numbers_stays_as_it_is(lora, tmp_path, sides):
    out, into, rank = sides
    name, path = f"{BLOCK}.7.attn1.to_q", tmp_path / "empty.safetensors"
    empty = {f"{name}.lora_A.weight": torch.ones(rank, into), f"{name}.lora_B.weight": torch.ones(out, rank)}
    save_file(load_file(lora) | empty, path)
    shrink_lora(path, tmp_path / "y.safetensors", rank=1)
    made = load_file(tmp_path / "y.safetensors")
    assert all(torch.equal(made[key], value) for key, value in empty.items())


def test_the_command_line_tells_every_layer_and_the_whole(lora, tmp_path, capsys):
    words = ["lora", "shrink", str(lora), str(tmp_path / "x.safetensors")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"19.61% lost, rank   24 ->    2  {BLOCK}.0.attn1.to_q" in said
    assert "ranks from 1 to 20, 7 in the middle." in said and "Of all changes together" in said
    assert main(words) == 2 and "exists already" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--rank", "2"]) == 0 and "ranks from 2 to 2" in capsys.readouterr().out
    assert main(["lora", "grow", *words[2:]]) == 2
    assert "'grow' stands where the word shrink is expected" in capsys.readouterr().err
