"""What LoRAs do to outputs: what the library that wrote them does, however they are applied; and nothing afterwards."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from agreement import compare, relative_error
from lora_forms import FILES
from official import inputs, official, official_velocity, tiny_section
from safetensors.torch import save_file
from torch import Tensor, nn

from ltx2_core.checkpoint.keys.transformer import TRANSFORMER
from ltx2_core.lora import LoraAdapter, Strengths, StrengthSchedule, fold_loras, open_lora
from ltx2_core.lora.names import find_parameter
from ltx2_core.memory import Plain, Store
from ltx2_core.memory.unit import UNCHANGED, aligned
from ltx2_core.pipeline.engines.prepare import changes_of
from ltx2_core.quantization import CASTS, install_quantized_layers
from ltx2_core.transformer import Transformer, TransformerConfig

SECTION = tiny_section("2.3")
TARGETS = ["to_q", "to_k", "to_out.0", "net.0.proj", "net.2", "patchify_proj", "audio_proj_out"]
ONE = Strengths()


@contextmanager
def copied(network: nn.Module, adapted: LoraAdapter) -> Iterator[None]:
    """``network`` with its weights as somebody has them who copies and changes them."""
    homes = {name: network.get_parameter(name).data for name in adapted.weight_patches}
    for name, change in adapted.weight_patches.items():
        network.get_parameter(name).data = homes[name].clone()
        change(network.get_parameter(name).data)
    try:
        with adapted.attached():
            yield
    finally:
        for name, home in homes.items():
            network.get_parameter(name).data = home


@torch.no_grad()
def outputs(network: nn.Module, *loras, fuse: bool = True) -> list[Tensor]:
    dtype = network.video.modulation.dtype
    streams = [replace(each, tokens=each.tokens.to(dtype), context=each.context.to(dtype)) for each in inputs(SECTION)]
    with copied(network, LoraAdapter(network, loras, fuse=fuse)):
        return list(network(*streams))


def check(seam: str, ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-5) -> None:
    for stream, a, b in zip(("video", "audio"), ours, theirs):
        compare(f"lora {seam} ({stream})", a, b, tolerance)


def transformer(seed: int = 0) -> Transformer:
    """Ours, with random weights."""
    torch.manual_seed(seed)
    network = Transformer(TransformerConfig.from_json(SECTION)).requires_grad_(False)
    for name, value in network.named_parameters():
        scale = 0.7 / math.sqrt(value.shape[-1]) if value.ndim > 1 else 0.1
        value.copy_(torch.randn_like(value) * scale + ("norm" in name))
    return network


def merged(network: Transformer, changes: dict[str, Tensor]) -> Transformer:
    """A copy of ``network`` with the sum of its weights and ``changes``."""
    twin = Transformer(TransformerConfig.from_json(SECTION)).requires_grad_(False)
    twin.load_state_dict({name: value + changes.get(name, 0) for name, value in network.state_dict().items()})
    return twin


# Layers of all streams, gates and the ends of the network among them, by their official names.
LAYERS = [
    "patchify_proj",
    "adaln_single.linear",
    "av_ca_a2v_gate_adaln_single.linear",
    "transformer_blocks.0.attn1.to_q",
    "transformer_blocks.0.attn2.to_k",
    "transformer_blocks.0.ff.net.0.proj",
    "transformer_blocks.1.ff.net.2",
    "transformer_blocks.1.audio_attn1.to_gate_logits",
    "transformer_blocks.1.audio_attn2.to_out.0",
    "transformer_blocks.0.audio_to_video_attn.to_v",
    "transformer_blocks.1.video_to_audio_attn.to_q",
]


def name_of(layer: str) -> str:
    return str(TRANSFORMER.ours(f"{layer}.weight", ""))


def write(path: Path, spelling: Callable[[str], str], network: Transformer, form: str = "LoRA", alpha=2.0, seed=1):
    """A file that changes LAYERS, and by how much it changes which parameter."""
    torch.manual_seed(seed)
    tensors, changes = {}, {}
    for layer in LAYERS:
        weight = network.get_parameter(name_of(layer))
        parts, change = FILES[form](weight, 0.3 / math.sqrt(weight.shape[1]), alpha)
        tensors |= {f"{spelling(layer)}.{part}": value.contiguous() for part, value in parts.items()}
        changes[name_of(layer)] = change
    save_file(tensors, path)
    return open_lora(path), changes


SPELLINGS = {
    "official": lambda layer: f"diffusion_model.{layer}",
    "PEFT": lambda layer: f"base_model.model.{layer}",
    "kohya": lambda layer: "lora_unet_" + layer.replace(".", "_"),
    "LyCORIS": lambda layer: "lycoris_" + layer.replace(".", "_"),
}


@pytest.fixture(scope="module")
def plain():
    """A network, and what it makes."""
    return (network := transformer()), outputs(network)


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_file_changes_each_weight_by_what_it_says(plain, tmp_path, form, spelling):
    network, _ = plain
    lora, changes = write(tmp_path / "a.safetensors", SPELLINGS[spelling], network, form)
    assert not lora.unknown and len(lora.layers) == len(LAYERS)
    patches = LoraAdapter(network, [(lora, ONE)]).weight_patches
    assert patches.keys() == changes.keys()
    for name, change in patches.items():
        change(weight := network.get_parameter(name).clone())
        compare(f"lora of {spelling}, {form}", weight, network.get_parameter(name) + changes[name])


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("strength", [1.0, 0.6, -0.8])
@pytest.mark.sample(12)
def test_a_file_does_what_it_says(plain, tmp_path, form, fuse, strength):
    network, plain = plain
    lora, changes = write(tmp_path / "a.safetensors", SPELLINGS["official"], network, form)
    expected = outputs(merged(network, {name: strength * change for name, change in changes.items()}))
    ours = outputs(network, (lora, Strengths(strength)), fuse=fuse)
    assert all(relative_error(a, b) > 0.02 for a, b in zip(ours, plain))
    check(f"{form}, {'fused' if fuse else 'beside'}", ours, expected)
    assert all(torch.equal(a, b) for a, b in zip(outputs(network), plain))  # removed again


@pytest.mark.parametrize(
    "settings",
    [
        *("plain", "bias", "dora", "rslora", "patterns", "LoHa", "LoKr"),
        *("OFT", "OFT-exact", "OFT-held", "OFT-shared", "BOFT", "BOFT-in-stages"),
    ],
)
def test_peft_files(tmp_path, settings, monkeypatch):
    peft = pytest.importorskip("peft")
    if settings.startswith("BOFT"):  # for whose stages PEFT would compile a kernel
        layer = pytest.importorskip("peft.tuners.boft.layer")
        blocks = Mock(apply=lambda turns: torch.stack([torch.block_diag(*each) for each in turns]))
        monkeypatch.setattr(layer, "get_fbd_cuda", lambda: settings.endswith("stages"))
        monkeypatch.setattr(layer, "FastBlockDiag", blocks)
    theirs, ours = official(SECTION)
    before = outputs(ours)
    config = {
        "plain": lambda: peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS),
        "bias": lambda: peft.LoraConfig(r=4, lora_alpha=6, lora_bias=True, target_modules=TARGETS),
        "dora": lambda: peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=TARGETS),
        "rslora": lambda: peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=TARGETS),
        "patterns": lambda: peft.LoraConfig(
            r=4, target_modules=TARGETS, rank_pattern={"attn1.to_q": 2}, alpha_pattern={r"\d+\.ff\.net\.2": 5}
        ),
        "LoHa": lambda: peft.LoHaConfig(r=4, alpha=6, target_modules=TARGETS),
        "LoKr": lambda: peft.LoKrConfig(r=4, alpha=6, target_modules=TARGETS, decompose_both=True),
        "OFT": lambda: peft.OFTConfig(oft_block_size=4, target_modules=TARGETS),
        "OFT-exact": lambda: peft.OFTConfig(r=2, oft_block_size=0, use_cayley_neumann=False, target_modules=TARGETS),
        "OFT-held": lambda: peft.OFTConfig(
            oft_block_size=4, coft=True, eps=0.5, num_cayley_neumann_terms=7, target_modules=TARGETS
        ),
        "OFT-shared": lambda: peft.OFTConfig(oft_block_size=4, block_share=True, target_modules=TARGETS),
        "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=TARGETS),
        "BOFT-in-stages": lambda: peft.BOFTConfig(boft_block_size=2, boft_n_butterfly_factor=3, target_modules=TARGETS),
    }[settings]()
    model = peft.get_peft_model(theirs, config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "magnitude" in name:
                value.mul_(1.1)
            elif "boft_s" in name:
                value.add_(torch.rand_like(value) * 0.1)
            elif any(part in name for part in ("lora_", "hada_", "lokr_", "oft_R")):
                value.copy_(torch.randn_like(value) * 0.2)
    model.save_pretrained(tmp_path)
    lora = open_lora(tmp_path / "adapter_model.safetensors")
    assert lora.layers and not lora.unknown
    found = outputs(ours, (lora, ONE))
    assert all(relative_error(a, b) > 0.02 for a, b in zip(found, before))
    check(f"of PEFT, {settings}", found, official_velocity(model.merge_and_unload(), *inputs(SECTION)))


def test_diffusers_files(tmp_path):
    peft, diffusers = pytest.importorskip("peft"), pytest.importorskip("diffusers")
    small = {
        "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32,
        "audio_num_attention_heads": 2, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16,
        "caption_channels": 24,
    }  # fmt: skip
    theirs = diffusers.LTX2VideoTransformer3DModel(**small)
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    theirs.add_adapter(peft.LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "proj_in", "linear"]))
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn_like(value))
    settings = theirs.peft_config["default"].to_dict()
    layers = peft.get_peft_model_state_dict(theirs)
    theirs.save_lora_adapter(tmp_path, weight_name="of_the_model.safetensors")
    diffusers.LTX2Pipeline.save_lora_weights(
        tmp_path, layers, weight_name="of_the_pipeline.safetensors", transformer_lora_adapter_metadata=settings
    )
    theirs.fuse_lora()
    theirs.unload_lora()
    for file in ("of_the_model", "of_the_pipeline"):
        lora = open_lora(tmp_path / f"{file}.safetensors")
        assert not lora.unknown
        changes = LoraAdapter(_Holder(before), [(lora, ONE)]).weight_patches
        assert len(changes) == len(layers) / 2 > 8
        for name, fused in theirs.state_dict().items():
            if (change := changes.get(find_parameter(name)[1])) is not None:
                weight = before[name].clone()
                change(weight)
                compare(f"lora of diffusers, {file}", weight, fused)
            else:
                assert torch.equal(before[name], fused)


class _Holder(nn.Module):
    """Weights of diffusers under our names."""

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        for name, value in state.items():
            *owners, leaf = find_parameter(name)[1].split(".")
            module: nn.Module = self
            for owner in owners:
                if owner not in dict(module.named_children()):
                    module.add_module(owner, nn.Module())
                module = module.get_submodule(owner)
            module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))


@pytest.fixture
def pair(tmp_path):
    """A network, and two LoRAs for it with what they change."""
    network = transformer()
    one = write(tmp_path / "one.safetensors", SPELLINGS["official"], network)
    two = write(tmp_path / "two.safetensors", SPELLINGS["kohya"], network, "LoRA with alpha", seed=2)
    return network, one, two


@pytest.mark.parametrize("fuse", [True, False])
def test_loras_add_up(pair, fuse):
    network, (one, some), (two, others) = pair
    both = {name: 0.5 * some[name] - 2 * others[name] for name in some}
    found = outputs(network, (one, Strengths(0.5)), (two, Strengths(-2.0)), fuse=fuse)
    check("two, summed", found, outputs(merged(network, both)))


@pytest.mark.parametrize("form", ["DoRA", "GLoRA", "OFT", "BOFT"])
def test_what_depends_on_the_weight_starts_from_the_weight_itself(pair, tmp_path, form):
    """So the order in which LoRAs are stacked says nothing."""
    network, (one, some), _ = pair
    other, changes = write(tmp_path / "other.safetensors", SPELLINGS["kohya"], network, form)
    expected = outputs(merged(network, {name: some[name] + changes[name] for name in some}))
    for loras in ([(one, ONE), (other, ONE)], [(other, ONE), (one, ONE)]):
        check(f"LoRA and {form}", outputs(network, *loras), expected)


def test_weights_of_two_bytes_are_rounded_once(pair):
    network, (one, some), (two, others) = pair
    network.bfloat16()
    for name, change in LoraAdapter(network, [(one, ONE), (two, ONE)]).weight_patches.items():
        weight = network.get_parameter(name).clone()
        exact = weight.float() + some[name] + others[name]
        change(weight)
        # Sums of float32 in another order may fall on the other side of a border.
        assert (weight != exact.bfloat16()).float().mean() < 0.01
        assert relative_error(weight, exact) < 2**-8


def test_fused_and_beside_differ_by_rounding(pair):
    network, (lora, changes), _ = pair
    exact = outputs(merged(network.bfloat16().float(), changes))
    network.bfloat16()
    fused, beside, plain = outputs(network, (lora, ONE)), outputs(network, (lora, ONE), fuse=False), outputs(network)
    for a, b, without, expected in zip(fused, beside, plain, exact):
        assert not torch.equal(a, b) and relative_error(without, expected) > 0.1
        assert relative_error(a, expected) < 0.03 and relative_error(b, expected) < 0.03


def in_float8(network: Transformer) -> tuple[Transformer, Transformer]:
    """``network`` with the matrices of LAYERS in float8, and the same with these matrices expanded again."""
    state = network.state_dict()
    for name in map(name_of, LAYERS):
        state[name], state[f"{name}_scale"] = CASTS["fp8"].quantize(state[name]).values()
    expanded = merged(network, {})
    for name in map(name_of, LAYERS):
        expanded.get_parameter(name).data = state[name].float() * state[f"{name}_scale"]
    with torch.device("meta"):
        stored = Transformer(TransformerConfig.from_json(SECTION))
    install_quantized_layers(stored, state)
    stored.load_state_dict(state, assign=True)
    return stored.requires_grad_(False), expanded


@pytest.mark.parametrize("form", ["LoRA", "DoRA", "LoHa", "LoKr", "difference", "GLoRA", "OFT", "BOFT", "OFT of PEFT"])
@pytest.mark.parametrize("chunk", [4096, 3])
@pytest.mark.sample(3)
def test_weights_in_float8_are_not_rounded_again(tmp_path, form, chunk):
    network = transformer()
    stored, expanded = in_float8(network)
    # DoRA starts from the weight that is there.
    lora, changes = write(tmp_path / "a.safetensors", SPELLINGS["kohya"], expanded, form)
    for stream in (each for block in stored.blocks for each in (block.video, block.audio)):
        stream.feed_forward.chunk = chunk
    plain = outputs(stored)
    assert not LoraAdapter(stored, [(lora, ONE)]).weight_patches
    found = outputs(stored, (lora, ONE))
    check(f"{form} on float8", found, outputs(merged(expanded, changes)))
    # What remains is the error of the format itself, which is there without a LoRA, too.
    own = [relative_error(a, b) for a, b in zip(plain, outputs(network))]
    all_in_all = [relative_error(a, b) for a, b in zip(found, outputs(merged(network, changes)))]
    assert all(error < 3 * without for error, without in zip(all_in_all, own))
    assert all(torch.equal(a, b) for a, b in zip(outputs(stored), plain))
    assert len(fold_loras(stored, [(lora, ONE)])) == len(LAYERS)
    check(f"{form} folded", outputs(stored), outputs(merged(expanded, changes)))


@pytest.mark.parametrize("fuse", [True, False])
def test_strength_0_is_no_lora(pair, fuse):
    network, (lora, _), _ = pair
    plain = outputs(network)
    for none in (Strengths(0), Strengths(video=0, audio=0, audio_to_video=0, video_to_audio=0), Strengths(blocks=[9])):
        adapted = LoraAdapter(network, [(lora, none)], fuse=fuse)
        assert not adapted.weight_patches
        assert all(torch.equal(a, b) for a, b in zip(outputs(network, (lora, none), fuse=fuse), plain))
    never = Strengths(schedule=lambda moment: 0.0)
    assert all(torch.equal(a, b) for a, b in zip(outputs(network, (lora, never)), plain))


@pytest.mark.parametrize("fuse", [True, False])
def test_each_layer_gets_its_own_strength(pair, fuse):
    network, (lora, changes), _ = pair
    strengths = Strengths(0.5, video=0.0, audio=-1.0, audio_to_video=3.0, video_to_audio=0.5)
    expected = {name: strengths.constant_for("transformer", name) * change for name, change in changes.items()}
    assert {strengths.constant_for("transformer", name) for name in changes} == {0.0, -0.5, 1.5, 0.25}
    check("streams", outputs(network, (lora, strengths), fuse=fuse), outputs(merged(network, expected)))


@pytest.mark.parametrize("form", ["LoRA", "LoHa", "DoRA", "GLoRA", "OFT"])
@torch.no_grad()
def test_a_schedule(tmp_path, form):
    network = transformer()
    lora, changes = write(tmp_path / "a.safetensors", SPELLINGS["kohya"], network, form)
    adapted = LoraAdapter(
        network, [(lora, Strengths(2.0, schedule=StrengthSchedule.through([(1.0, 0.0), (0.5, 0.25), (0.0, 0.5)])))]
    )
    assert not adapted.weight_patches
    with adapted.attached():
        for sigma, strength in ((1.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.0, 1.0)):
            adapted.set_moment(sigma)
            found = list(network(*inputs(SECTION)))
            expected = outputs(merged(network, {name: strength * change for name, change in changes.items()}))
            check("schedule", found, expected)


def test_a_schedule_through_points():
    rising = StrengthSchedule.through([(4, 1.0), (0, 0.0), (6, -1.0)])
    assert [rising(step) for step in (-1, 0, 1, 4, 5, 9)] == [0.0, 0.0, 0.25, 1.0, 0.0, -1.0]
    for points in ([], [(2, 1.0), (2, 0.0)]):
        with pytest.raises(ValueError, match="each at another moment"):
            StrengthSchedule.through(points)


def test_differences_of_norms_tables_and_biases(tmp_path):
    network = transformer()
    keys = {
        "transformer_blocks.0.attn1.q_norm": ("diff", "blocks.0.video.self_attn.q_norm.weight"),
        "transformer_blocks.1.audio_scale_shift_table": ("diff", "blocks.1.audio.modulation"),
        "transformer_blocks.1.audio_ff.net.2": ("diff_b", "blocks.1.audio.feed_forward.down.bias"),
    }
    changes = {ours: torch.randn_like(network.get_parameter(ours)) for _, ours in keys.values()}
    tensors = {f"diffusion_model.{name}.{part}": changes[ours] for name, (part, ours) in keys.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    lora = open_lora(tmp_path / "a.safetensors")
    check("difference of others", outputs(network, (lora, ONE), fuse=False), outputs(merged(network, changes)))
    with pytest.raises(ValueError, match=r"a\.safetensors changes .* and cannot follow a schedule"):
        LoraAdapter(network, [(lora, Strengths(schedule=StrengthSchedule.through([(0, 1.0)])))])


def test_what_does_not_fit_is_left_out(pair):
    _, (lora, _), _ = pair
    small = TransformerConfig.from_json(tiny_section("2.0", num_layers=1, cross_attention_dim=48))
    fitting = LoraAdapter(Transformer(small), [(lora, ONE)]).weight_patches
    assert {"blocks.0.video.self_attn.q.weight", "video.project_in.weight"} <= fitting.keys()
    assert not any(name.startswith("blocks.1") for name in fitting)
    assert "video.modulate.project.weight" not in fitting  # six rows, not nine
    assert "blocks.0.video.text_attn.k.weight" not in fitting


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
@pytest.mark.slow
def test_fused_when_resident_is_fused_at_copy(pair, dtype):
    network, (one, _), (two, _) = pair
    network.to(dtype)
    plain, expected = outputs(network), outputs(network, (one, ONE), (two, Strengths(-0.5)))
    changes = changes_of(LoraAdapter(network, [(one, ONE), (two, Strengths(-0.5))]))
    for budget in (None, 100_000, 0):
        store = Store(network, "cpu", link=Plain("cpu"))
        store.set_budget(budget)
        for change, wanted in ((changes, expected), (UNCHANGED, plain), (changes, expected)):
            store.patch(change)
            with store.use():
                assert all(torch.equal(a, b) for a, b in zip(outputs(network), wanted))
        store.release()
        assert all(torch.equal(a, b) for a, b in zip(outputs(network), plain))


@pytest.mark.parametrize("form", ["LoRA", "OFT"])
@pytest.mark.parametrize("fuse", [True, False])
@torch.no_grad()
def test_what_a_lora_reads_comes_and_goes_with_its_unit(tmp_path, fuse, form):
    """So a card never waits for the file of a LoRA, and what it takes there is known."""
    network = transformer()
    lora, _ = write(tmp_path / "a.safetensors", SPELLINGS["official"], network, form)
    expected = outputs(network, (lora, ONE), fuse=fuse)
    adapted = LoraAdapter(network, [(lora, ONE)], fuse=fuse)
    brought = [tensor for table in (adapted.read, adapted.beside) for each in table.values() for tensor in each]
    homes = [tensor.data_ptr() for tensor in brought]
    assert sum(tensor.nbytes for tensor in brought) == sum(delta.nbytes for _, _, delta in lora.layers)
    store, seen = Store(network, "cpu", link=Plain("cpu")), []
    network.blocks[0].video.self_attn.register_forward_hook(
        lambda *_: seen.append([tensor.data_ptr() for tensor in brought])
    )
    plain, aligned_bytes = store.wanted_bytes, sum(aligned(tensor.nbytes) for tensor in brought)
    for budget in (None, 0):
        store.patch(changes_of(adapted))
        store.set_budget(budget)
        with store.use(), adapted.attached():
            assert all(torch.equal(a, b) for a, b in zip(network(*inputs(SECTION)), expected))
        assert store.wanted_bytes == plain + (0 if fuse else aligned_bytes)  # what patches read does not stay
        moved = sum(a != b for a, b in zip(seen.pop(), homes))
        assert moved == 0 if fuse and budget is None else moved > 0
    store.release()
    assert [tensor.data_ptr() for tensor in brought] == homes
