"""Linear layers stored in float8: by a file, or because the user asks for it."""

import math
import re
from collections import Counter

import golden
import pytest
import torch
from agreement import relative_error
from official import inputs
from peak import Peak
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import pad
from written import as_bytes

import ltx2_core as ltx2
from ltx2_core import tiny
from ltx2_core.__main__ import main
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.layers import FeedForward
from ltx2_core.memory import Plain, Store
from ltx2_core.pipeline.engines import prepare
from ltx2_core.quantization import (
    CASTS,
    KEPT_WORDS,
    cast,
    castable,
    fp8,
    install_quantized_layers,
    kept_names,
    wants_exact_products,
)
from ltx2_core.quantization.fp8 import Fp8Linear


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 8)
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4, bias=False)

    def forward(self, ids):
        return self.second(self.first(self.table(ids)))


def quantise(weight: torch.Tensor, kind: torch.dtype, rowwise: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    largest = weight.abs().amax(dim=1, keepdim=True) if rowwise else weight.abs().max()
    scale = largest / torch.finfo(kind).max
    return (weight / scale).to(kind), scale


def load(state: dict, dtype=None) -> Network:
    with torch.device("meta"):
        network = Network()
    install_quantized_layers(network, state, dtype)
    network.load_state_dict(state, assign=True)
    return network


KINDS = torch.float8_e4m3fn, torch.float8_e5m2
IDS = torch.tensor([[0, 3, 5]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize(
    "spelling", [("weight_scale", "input_scale"), ("scale_weight", "scale_input"), ("weight_scale_inv", "input_scale")]
)
@torch.no_grad()
def test_a_scaled_weight_computes_as_its_expanded_self(kind, rowwise, spelling):
    state = Network().state_dict()
    for name in ("table", "first", "second"):
        weight, scale = quantise(state.pop(f"{name}.weight"), kind, rowwise)
        state |= {f"{name}.weight": weight, f"{name}.{spelling[0]}": scale, f"{name}.{spelling[1]}": torch.ones(())}
    plain = Network()
    plain.load_state_dict(
        {
            f"{n}.weight": state[f"{n}.weight"].float() * state[f"{n}.{spelling[0]}"]
            for n in ("table", "first", "second")
        }
        | {"first.bias": state["first.bias"]}
    )
    network = load(dict(state), torch.float32)
    assert network.first.weight.dtype == network.second.weight.dtype == kind
    assert isinstance(network.first, Fp8Linear) and isinstance(network.table, nn.Embedding)
    assert torch.equal(network(IDS), plain(IDS))


@torch.no_grad()
def test_float8_beside_other_dtypes():
    """As in re-uploads: one layer scaled and marked, one cast without a scale and with its bias, the rest bfloat16."""
    state = {name: value.bfloat16() for name, value in Network().state_dict().items()}
    weight, scale = quantise(state["second.weight"].float(), torch.float8_e4m3fn)
    state |= {name: state[name].to(torch.float8_e4m3fn) for name in ("first.weight", "first.bias")}
    state |= {
        "second.weight": weight,
        "second.weight_scale": scale,
        "second.comfy_quant": as_bytes(format="float8_e4m3fn"),
    }
    plain = Network().bfloat16()
    plain.load_state_dict(
        {n: v.bfloat16() for n, v in state.items() if n in plain.state_dict()}
        | {"second.weight": (weight.float() * scale).bfloat16()}
    )
    network = load(dict(state))
    assert network.second.weight.data_ptr() == weight.data_ptr()
    assert network.first.weight.dtype == torch.float8_e4m3fn and network.first.bias.dtype == torch.bfloat16
    assert torch.equal(network(IDS), plain(IDS))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"first.weight": torch.zeros(16, 4, dtype=torch.uint8), "first.weight_zeros": torch.ones(())}, "awq_w4a16"),
        ({"first.weight": torch.zeros(16, 8, dtype=torch.int8)}, "int8"),
        ({"first.weight": torch.zeros(16, 8, dtype=torch.int8), "first.weight_scale": torch.ones(())}, "int8 with"),
        ({"first.comfy_quant": as_bytes(format="svdquant_w4a4")}, "svdquant_w4a4"),
        ({"first.weight_scale": torch.ones(())}, "float32 with a scale"),
        (
            {
                "first.weight": torch.zeros(16, 8, dtype=torch.float8_e4m3fn),
                "first.weight_scale": torch.zeros(128, 4, dtype=torch.uint8),
            },
            r"float8_e4m3fn of shape \(16, 8\) with uint8 scales",
        ),
    ],
)
def test_another_format_is_named(change, found):
    with pytest.raises(ValueError, match=f"first.weight is stored as {found}.*reads bf16, fp16, fp32, fp8"):
        load(Network().state_dict() | change)


# ---------------------------------------------------------------------------------------------------- files as they are


def official_file(module, weight, scale):
    return {f"{module}.weight": weight, f"{module}.weight_scale": scale, f"{module}.input_scale": torch.tensor(0.02)}


def comfyui_file(module, weight, scale):
    mark = as_bytes(format=str(weight.dtype).removeprefix("torch."), params={"full_precision_matrix_mult": True})
    return {f"{module}.weight": weight, f"{module}.weight_scale": scale, f"{module}.comfy_quant": mark}


def old_comfyui_file(module, weight, scale):
    whole = {"model.diffusion_model.scaled_fp8": torch.empty(0, dtype=weight.dtype)}
    beside = {f"{module}.scale_weight": scale.reshape(1), f"{module}.scale_input": torch.ones(())}
    return {f"{module}.weight": weight} | beside | whole


def cast_file(module, weight, scale):
    return {f"{module}.weight": weight}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("layout", "input_scale", "exact"),
    [
        (official_file, 0.02, False),
        (comfyui_file, None, True),
        (old_comfyui_file, None, False),
        (cast_file, None, False),
    ],
)
@pytest.mark.slow
def test_a_file_as_it_is(models, tmp_path, layout, input_scale, exact, kind):
    """All matrices of a block, written as the official tool and ComfyUI write them."""
    source, plain = models.files[0], {}
    state = load_file(source.path)
    for key in [k for k in state if ".transformer_blocks.2." in k and k.endswith(".weight") and state[k].ndim == 2]:
        weight, scale = quantise(state[key].float(), kind)
        scale = torch.ones(()) if layout is cast_file else scale
        weight = state[key].to(kind) if layout is cast_file else weight
        plain[key] = weight.float() * scale
        state |= layout(key.removesuffix(".weight"), weight, scale)
    save_file(state, tmp_path / "fp8.safetensors", source.metadata)
    save_file(load_file(source.path) | plain, tmp_path / "plain.safetensors", source.metadata)
    network, expected = (
        ltx2.build(ltx2.open_models(tmp_path / f"{name}.safetensors"), "transformer", torch.float32)
        for name in ("fp8", "plain")
    )
    linears = [module for module in network.modules() if isinstance(module, Fp8Linear)]
    assert len(linears) == len(plain) >= 28
    for linear in linears:
        assert linear.weight.dtype == kind and linear.exact == exact
        found = None if linear.input_scale is None else linear.input_scale.item()
        assert found == (None if input_scale is None else pytest.approx(input_scale))
    given = streams(models)
    assert all(torch.equal(a, b) for a, b in zip(network(*given), expected(*given)))


@pytest.mark.parametrize("name", ["input_scale", "scale_input"])
@pytest.mark.parametrize(("stated", "measured"), [(0.02, True), (1, False), (0, False), (-2, False), (math.nan, False)])
def test_a_scale_of_inputs_that_nobody_measured_does_not_count(stated, measured, name):
    weight, scale = torch.ones(32, 32).to(torch.float8_e4m3fn), torch.tensor(0.5)
    state = {"0.weight": weight, "0.weight_scale": scale, f"0.{name}": torch.tensor(float(stated))}
    network = nn.Sequential(nn.Linear(32, 32, bias=False))
    install_quantized_layers(network, state, torch.float32)
    assert (network[0].input_scale is not None) == measured


def test_two_elements_of_an_old_marker_alone_forbid_to_round_inputs():
    shapes = (), (0,), (1,), (2,)
    assert [wants_exact_products({"model.scaled_fp8": shape}) for shape in shapes] == [False, False, False, True]


# ------------------------------------------------------------------------------------------------- cast while loading


HALF_STEP = {"fp8": 2**-4}  # of numbers with three bits behind the point
SMALLEST_STEP = {"fp8": 2**-9 / 448}  # of the largest number of a row
TYPICAL = {"fp8": 0.0275}


@pytest.mark.parametrize("format", HALF_STEP)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("spread", [0, 8])
@torch.no_grad()
def test_a_cast_layer_errs_by_its_format_and_no_more(format, dtype, spread):
    """Rows of sizes up to 2^spread apart, and one of zeros."""
    weight = (torch.randn(64, 256) * torch.exp2(spread * torch.rand(64, 1))).to(dtype)
    weight[5] = 0
    linear = Fp8Linear(**CASTS[format].quantize(weight))
    exact, found = weight.double(), linear.expanded(torch.float64).keywords["weight"]
    allowed = HALF_STEP[format] * exact.abs() + SMALLEST_STEP[format] / 2 * exact.abs().amax(1, keepdim=True)
    assert ((found - exact).abs() <= 1.0001 * allowed).all()
    x = torch.randn(50, 256)
    assert 0.02 < relative_error_of_channels(linear(x).double(), x.double() @ exact.T) < TYPICAL[format]


@torch.no_grad()
@pytest.mark.parametrize(
    ("columns", "spread", "least", "most"), [(512, 1, 0.006, 0.009), (512, 8, 0.006, 0.009), (40, 1, 0, 0.009)]
)
def test_a_matrix_cast_to_int8_errs_by_its_format_whatever_stands_out(columns, spread, least, most):
    """Columns that are eight times as large widen no scale, since all are rotated; 40 columns are no whole groups."""
    weight = torch.randn(96, columns)
    weight[:, ::50] *= spread
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(columns, 96, bias=False)})
    state = {f"q.{suffix}": tensor for suffix, tensor in CASTS["int8"].quantize(weight.bfloat16()).items()}
    install_quantized_layers(network, state)
    network.load_state_dict(state, assign=True)
    found = network["q"].expand_weight(torch.float32)
    assert least < float((found - weight).norm() / weight.norm()) < most
    x = torch.randn(50, columns)
    assert relative_error_of_channels(network["q"](x).double(), x.double() @ weight.double().T) < most


def relative_error_of_channels(ours, exact) -> float:
    """Mean over channels of the error's size in each."""
    used = exact.norm(dim=0) > 0
    return float(((ours - exact).norm(dim=0)[used] / exact.norm(dim=0)[used]).mean())


def released(version: str) -> dict[str, torch.Tensor]:
    """The transformer as it is in the bf16 file, by our names and without its bytes."""
    rows = golden.key_list("transformer_text", version)
    _, names = COMPONENTS["transformer"].find(rows)
    return {ours: torch.empty(rows[key], dtype=torch.bfloat16, device="meta") for ours, key in names.items()}


@pytest.mark.parametrize("version, gigabytes, smaller", [("2.0", 37.75, 25.41), ("2.3", 37.98, 25.64)])
def test_what_is_cast_of_a_release_and_what_is_kept(version, gigabytes, smaller):
    """Ten matrices in each of the 46 inner blocks; what is left of the GB of a file is mostly the sound's."""
    state = released(version)
    names = castable(state)
    inside = re.compile(
        r"blocks\.(\d+)\.video\.(self_attn\.[qkv]|self_attn\.out|text_attn\.[qkv]|text_attn\.out|"
        r"feed_forward\.up|feed_forward\.down)\.weight"
    )
    found = Counter(int(inside.fullmatch(name)[1]) for name in names)
    assert found == dict.fromkeys(range(1, 47), 10) and len(names) == 460
    bytes_saved = sum(state[name].numel() - 4 * len(state[name]) for name in names)
    whole = sum(value.nbytes for value in state.values())
    assert whole / 1e9 == pytest.approx(gigabytes, abs=0.01)
    assert (whole - bytes_saved) / 1e9 == pytest.approx(smaller, abs=0.01)
    # Every matrix that stays has its reason, and every reason has a matrix.
    matrices = [name for name, value in state.items() if value.ndim == 2 and name.endswith(".weight")]
    reasons = [kept_names(state, [word]) for word in KEPT_WORDS]
    kept = {name for name in matrices if any(reason(name) for reason in reasons)}
    assert kept == set(matrices) - set(names)
    gated = version == "2.3"
    assert [any(reason(name) for name in kept) for reason in reasons] == [True] * 4 + [gated]


def test_a_matrix_for_which_the_card_has_no_room_is_rounded_where_it_lies(monkeypatch):
    plain = {f"blocks.{number}.video.self_attn.q.weight": torch.randn(32, 32) for number in range(5)}
    expected, found, quantize, calls = dict(plain), dict(plain), type(CASTS["fp8"]).quantize, []
    cast(expected, "fp8")

    def full(format, weight):
        calls.append(weight)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("full")
        return quantize(format, weight)

    monkeypatch.setattr(type(CASTS["fp8"]), "quantize", full)
    cast(found, "fp8", torch.device("cpu", 0))  # which is another device than that of the weights
    assert len(calls) == 4 and found.keys() == expected.keys()
    assert all(torch.equal(found[name].float(), expected[name].float()) for name in expected)


def test_casting_holds_one_matrix_in_full_at_a_time():
    state = {f"blocks.{i}.video.self_attn.q.weight": torch.randn(64, 64).bfloat16() for i in range(22)}
    with Peak() as peak:
        cast(state, "fp8")
    rows, matrix = 64 * 4, 64 * 64
    assert peak.bytes <= 20 * (matrix + rows) + 4 * matrix + 3 * rows  # in float32, on its way


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Five layers at random, of which three may be cast."""
    checkpoint, gemma, _ = tiny.write(tmp_path_factory.mktemp("five"), "2.3", transformer={"num_layers": 5})
    return ltx2.open_models(checkpoint, gemma)


def streams(models):
    section = models.config["transformer"] | {"in_channels": 128, "audio_in_channels": 128}
    return tuple(type(s)(pad(s.tokens, (0, 120)), *list(vars(s).values())[1:]) for s in inputs(section))


@pytest.mark.parametrize("format, allowed", [("fp8", 0.03), ("int8", 0.012)])
@pytest.mark.slow
def test_velocity_of_a_cast_transformer(models, format, allowed):
    plain, smaller = (ltx2.build(models, "transformer", torch.float32, format=f) for f in (None, format))
    video, audio = streams(models)
    errors = [relative_error(a, b) for a, b in zip(smaller(video, audio), plain(video, audio))]
    assert min(errors) > 0 and max(errors) <= allowed
    assert torch.equal(smaller(None, audio)[1], plain(None, audio)[1])  # the sound by itself is the same


def test_what_is_kept_is_kept_bit_for_bit(models):
    plain, smaller = (ltx2.build(models, "transformer", format=f).state_dict() for f in (None, "fp8"))
    small = {name for name, value in smaller.items() if value.dtype == torch.float8_e4m3fn}
    assert small == set(castable(plain)) and len(small) == 30
    assert smaller.keys() - plain.keys() == {f"{name}_scale" for name in small}
    for name in plain.keys() - small:
        assert smaller[name].dtype == plain[name].dtype and torch.equal(smaller[name], plain[name])
    assert not any("audio" in name for name in small) and any(".audio." in name for name in plain)


@pytest.mark.parametrize("budget", [0, 40_000])
def test_a_cast_transformer_streams_bit_for_bit(models, budget):
    network, given = ltx2.build(models, "transformer", torch.float32, format="fp8"), streams(models)
    expected = network(*given)
    store = Store(network, "cpu", link=Plain("cpu"))
    store.set_budget(budget)
    with store.use():
        assert all(torch.equal(a, b) for a, b in zip(network(*given), expected))


def test_what_a_file_has_quantised_already_is_not_cast_again(models, tmp_path):
    source, key = models.files[0], "model.diffusion_model.transformer_blocks.2.attn1.to_q.weight"
    weights = load_file(source.path)
    weights[key], scale = quantise(weights[key].float(), torch.float8_e5m2)
    save_file(weights | {f"{key}_scale": scale}, tmp_path / "mixed.safetensors", source.metadata)
    network = ltx2.build(ltx2.open_models(tmp_path / "mixed.safetensors"), "transformer", format="fp8")
    attention = network.blocks[2].video.self_attn
    assert attention.q.weight.dtype == torch.float8_e5m2 and torch.equal(attention.q.weight_scale, scale)
    assert attention.k.weight.dtype == torch.float8_e4m3fn


@torch.no_grad()
def test_a_feed_forward_expands_its_weights_once(monkeypatch):
    mixer, x, expanded = FeedForward(32), torch.randn(2, 50, 32), []
    for name in ("up", "down"):
        linear = getattr(mixer, name)
        setattr(mixer, name, Fp8Linear(**CASTS["fp8"].quantize(linear.weight), bias=linear.bias))
    whole = mixer.transform(x)
    dequantize = fp8.dequantize
    monkeypatch.setattr(fp8, "dequantize", lambda *given: expanded.append(given) or dequantize(*given))
    mixer.chunk = 7
    assert torch.equal(mixer.transform(x), whole) and len(expanded) == 2


@pytest.mark.slow
def test_a_clip_in_fp8_from_the_command_line(models, tmp_path, monkeypatch):
    made = []

    def build(models, name, *how, **more):
        made.append((name, ltx2.build(models, name, *how, **more)))
        return made[-1][1]

    monkeypatch.setattr(prepare, "build", build)
    how = ["--width", "64", "--height", "64", "--frames", "9", "--steps", "2", "--device", "cpu", "--format", "fp8"]
    files = ["--checkpoint", str(models.files[0].path), "--text-encoder", str(models.text_encoder)]
    assert main(["generate", "--prompt", "x", "--output", str(tmp_path / "clip.wav"), *files, *how]) == 0
    small = {name for name, network in made for part in network.modules() if isinstance(part, Fp8Linear)}
    assert small == {"transformer"} and len(made) > 4


def test_a_cast_that_cannot_be_is_refused(models):
    with pytest.raises(ValueError, match="format is 'fp4'; choose one of fp8"):
        ltx2.generate(models, "x", format="fp4")
    with pytest.raises(ValueError, match="There is no format fp4"):
        ltx2.build(models, "transformer", format="fp4")
    with pytest.raises(ValueError, match="Only the transformer can be cast to fp8; build the vocoder without"):
        ltx2.build(models, "vocoder", format="fp8")
