"""Files whose matrices are written in every format: what is built of them, what is counted, and what is said."""

import itertools
import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
from agreement import relative_error
from official import inputs
from peak import Peak
from safetensors.torch import load_file, save_file
from written import WRITERS, as_bytes, rewrite

from ltx2_core import generate, open_models, quantization
from ltx2_core.checkpoint import TensorFile
from ltx2_core.checkpoint.build import build
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.cli.inspect import inspect
from ltx2_core.errors import CheckpointError
from ltx2_core.lora import LoraAdapter, Strengths, fold_loras, open_lora
from ltx2_core.memory import Plain, Store
from ltx2_core.memory.arrival import arrival_on
from ltx2_core.pipeline.engines.prepare import changes_of
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.quantization import (
    QuantizedLinear,
    expand_weight,
    find_format,
    is_marker,
    respell,
    split_companion,
    stored_weights,
)

pytestmark = pytest.mark.usefixtures("without_gradients")

MINIATURE = open_models("miniature")
CHECKPOINT, GEMMA = MINIATURE.files[0].path, MINIATURE.text_encoder
BLOCKS = ".transformer_blocks."

# How far the miniature's velocity is from that of bfloat16, at most; the weights of a format alone err by its rounding.
ALLOWED = {
    "fp8 in blocks": 0.04, "fp8 in columns": 0.04, "int8 of the tensor": 0.04, "int8 in blocks": 0.02,
    "int8 rotated": 0.02, "int8 of quanto": 0.02, "int8 of bitsandbytes": 0.02, "nvfp4": 0.15, "mxfp8": 0.05,
    "w4a8": 0.2, "w4a4": 0.25, "nf4": 0.2,
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The miniature with the matrices of its blocks in a format, written once: the file, and which these are."""

    def write(name):
        path = tmp_path_factory.mktemp("written") / "x.safetensors"
        return path, rewrite(CHECKPOINT, path, {BLOCKS: name})

    return cache(write)


def streams():
    draw = torch.Generator().manual_seed(1)
    given = inputs(MINIATURE.config["transformer"])
    return [replace(s, tokens=torch.randn(1, s.tokens.shape[1], 128, generator=draw)) for s in given]


def expanded_twin(network, plain):
    """``plain`` with the expanded weights of the quantised layers of ``network``, and how many these are."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLinear)}
    for name, layer in layers.items():
        plain.get_submodule(name).weight.data = expand_weight(layer, torch.float32)
    return plain, layers


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.slow
def test_a_transformer_computes_as_its_expanded_self(written, name):
    path, matrices = written(name)
    network = build(open_models(path), "transformer", torch.float32)
    plain = build(MINIATURE, "transformer", torch.float32)
    true = plain(*streams())
    plain, layers = expanded_twin(network, plain)
    assert len(layers) == len(matrices) > 100 and {layer.format.name for layer in layers.values()} == {WRITERS[name][1]}
    found = network(*streams())
    for ours, same, other in zip(found, plain(*streams()), true):
        assert relative_error(ours, same) < 1e-5
        assert 1e-3 < relative_error(ours, other) < ALLOWED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_plan_counts_the_bytes_of_the_file(written, name):
    models = open_models(written(name)[0])
    dtypes = dict.fromkeys((*models.sources, "text_encoder"), torch.bfloat16)
    blueprint = Blueprint.of_files(models, None, dtypes)
    planned, built = blueprint.network("transformer"), build(models, "transformer", torch.bfloat16)
    layout = {key: (tensor.shape, tensor.dtype) for key, tensor in built.state_dict().items()}
    assert layout == {key: (tensor.shape, tensor.dtype) for key, tensor in planned.state_dict().items()}
    source = models.source("transformer")
    unused = ("input_scale", "output_scale", "weight_format")
    kept = [key for key in source.names.values() if not is_marker(key) and split_companion(key)[1] not in unused]
    assert sum(tensor.nbytes for tensor in built.state_dict().values()) == sum(
        source.file.entries[key].nbytes for key in kept
    )
    assert f"transformer in {WRITERS[name][1]}" in blueprint.title
    assert source.parameters == MINIATURE.source("transformer").parameters


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.sample(1)
def test_a_lora_beside_every_format(written, tmp_path, name):
    network = build(open_models(written(name)[0]), "transformer", torch.float32)
    modules, state = dict(network.blocks[1].named_modules()), {}
    names = {"attn1.to_q": "video.self_attn.q", "ff.net.2": "video.feed_forward.down"}
    for theirs, ours in names.items():
        out, into = modules[ours].shape
        key = f"diffusion_model.transformer_blocks.1.{theirs}"
        state |= {f"{key}.lora_A.weight": torch.randn(4, into), f"{key}.lora_B.weight": torch.randn(out, 4) * 0.1}
    save_file(state, tmp_path / "lora.safetensors")
    adapter = LoraAdapter(network, [(open_lora(tmp_path / "lora.safetensors"), Strengths(0.7))])
    assert not adapter.weight_patches
    for theirs, ours in names.items():
        layer, x = modules[ours], torch.randn(5, modules[ours].shape[1])
        key = f"diffusion_model.transformer_blocks.1.{theirs}"
        delta = 0.7 * state[f"{key}.lora_B.weight"] @ state[f"{key}.lora_A.weight"]
        plain = layer(x)
        with adapter.attached():
            torch.testing.assert_close(layer(x), plain + x @ delta.T, atol=1e-4, rtol=1e-4)
        assert torch.equal(layer(x), plain)


def low_rank(weight):
    down, up = torch.randn(1, weight.shape[1]).bfloat16(), torch.randn(len(weight), 1).half() * 0.1
    parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor([0.5])}
    return parts, 0.5 * up.float() @ down.float()


def kronecker(weight):
    small, large = torch.randn(2, 2) * 0.1, torch.randn(len(weight) // 2, weight.shape[1] // 2)
    return {"lokr_w1": small, "lokr_w2": large}, torch.kron(small, large)


def lengths(weight):
    parts, change = low_rank(weight)
    changed = weight + change
    wanted = torch.ones(len(weight), 1)
    return parts | {"dora_scale": wanted}, changed / changed.norm(dim=1, keepdim=True) - weight


def difference(weight):
    change = (torch.randn_like(weight) * 0.1).to(torch.float8_e4m3fn)
    return {"diff": change}, change.float()


@pytest.mark.parametrize(("name", "form"), zip(WRITERS, itertools.cycle([low_rank, kronecker, lengths, difference])))
@pytest.mark.sample(1)
def test_every_form_of_lora_acts_on_the_numbers_of_the_format(written, tmp_path, name, form):
    """Twice in one stack, beside the layer or folded, while its block streams, and not at all afterwards."""
    key = "lora_unet_transformer_blocks_1_attn1_to_q"
    network, folded = (build(open_models(written(name)[0]), "transformer", torch.float32) for _ in range(2))
    layer = network.blocks[1].video.self_attn.q
    weight, x = expand_weight(layer, torch.float32), torch.randn(5, layer.shape[1])
    parts, change = form(weight)
    save_file({f"{key}.{part}": value.contiguous() for part, value in parts.items()}, tmp_path / "lora.safetensors")
    lora, plain = open_lora(tmp_path / "lora.safetensors"), layer(x)
    stack = [(lora, Strengths(-0.7)), (lora, Strengths(2.0)), (lora, Strengths(0.0))]
    expected = torch.nn.functional.linear(x, weight + 1.3 * change, layer.bias)
    adapter, store = LoraAdapter(network, stack), Store(network, "cpu", link=Plain("cpu"))
    store.patch(changes_of(adapter))
    with store.use(), adapter.attached():
        torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)
        resident = network(*streams())
    store.set_budget(store.rest_bytes + 2 * max(store.unit_bytes))
    with store.use(), adapter.attached():
        assert all(map(torch.equal, network(*streams()), resident))
    store.release()
    assert torch.equal(layer(x), plain)
    assert fold_loras(folded, stack) == ["blocks.1.video.self_attn.q.weight"]
    torch.testing.assert_close(folded.blocks[1].video.self_attn.q(x), expected, atol=1e-4, rtol=1e-4)


# Attention in one format, feed-forward in another, the table in a third: as in gemma_3_12B_it_fp4_mixed.
MIXED = {"embed_tokens": "int8 rotated", "language.*self_attn": "nvfp4", "language.*mlp": "fp8 in blocks"}


def hidden_states(path):
    files = open_text_encoder(path)
    encoder = build_text_encoder(files, torch.float32)
    return files, encoder, encoder(torch.arange(24).reshape(2, 12), torch.ones(2, 12, dtype=torch.int64))


@pytest.mark.parametrize("shards", [1, 2])
def test_gemma_in_several_formats_at_once(tmp_path, shards):
    """In one file its sizes are told by the shapes of matrices; in two, scales may lie in another one than weights."""
    whole = tmp_path / "gemma.safetensors"
    written = rewrite(GEMMA / "model.safetensors", whole, MIXED)
    path = whole
    if shards == 2:
        path = tmp_path / "gemma"
        path.mkdir()
        for file in GEMMA.glob("*.json"):
            (path / file.name).write_bytes(file.read_bytes())
        state = load_file(whole)
        parts = [{key: state[key] for key in sorted(state)[start::2]} for start in (0, 1)]
        names = {}
        for number, part in enumerate(parts):
            save_file(part, path / f"model-0000{number + 1}-of-00002.safetensors")
            names |= dict.fromkeys(part, f"model-0000{number + 1}-of-00002.safetensors")
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    files, encoder, found = hidden_states(path)
    assert files.config == open_text_encoder(GEMMA).config or shards == 1
    assert files.config.vocabulary == 512 and files.config.width == 64 and files.config.heads == 4
    plain, layers = expanded_twin(encoder, build_text_encoder(open_text_encoder(GEMMA), torch.float32))
    assert Counter(layer.format.name for layer in layers.values()) == {"nvfp4": 6 * 4, "fp8": 6 * 3}
    assert len(layers) + 1 == len(written)
    plain.model.embed_tokens.weight.data = encoder.model.embed_tokens(torch.arange(512))
    expected = plain(torch.arange(24).reshape(2, 12), torch.ones(2, 12, dtype=torch.int64))
    true = hidden_states(GEMMA)[2]
    for ours, same, other in zip(found, expected, true):
        assert relative_error(ours, same) < 1e-5 and 1e-3 < relative_error(ours, other) < 0.4
    assert {"nvfp4", "fp8", "int8"} <= set(files.formats)
    assert "nvfp4" in inspect(path) and "fp8" in inspect(path)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.slow
def test_markers_in_the_metadata(tmp_path, prefix, bare):
    """As newer files have them: not beside the weight, with or without the prefix, as an object or the bare name."""
    beside, listed = tmp_path / "beside.safetensors", tmp_path / "listed.safetensors"
    rewrite(CHECKPOINT, beside, {f"{BLOCKS}2.": "nvfp4" if bare else "int8 rotated"})
    state, layers = load_file(beside), {}
    for key in [key for key in state if key.endswith(".comfy_quant")]:
        marker = json.loads(bytes(state.pop(key).tolist()))
        name = key.removesuffix(".comfy_quant").removeprefix("model.diffusion_model.")
        layers[prefix + name] = marker["format"] if bare else marker
    metadata = MINIATURE.files[0].metadata | {"_quantization_metadata": json.dumps({"layers": layers})}
    save_file(state, listed, metadata)
    found, expected = (build(open_models(path), "transformer", torch.float32)(*streams()) for path in (listed, beside))
    assert len(layers) > 20 and all(torch.equal(a, b) for a, b in zip(found, expected))
    assert open_models(listed).files[0].nbytes == sum(tensor.nbytes for tensor in state.values())


@pytest.mark.parametrize("in_file", ["model.diffusion_model.", ""])
@pytest.mark.parametrize("listed", ["model.diffusion_model.", ""])
def test_a_layer_of_the_metadata_is_known_by_either_name_and_its_own_marker_counts_first(tmp_path, in_file, listed):
    path, key = tmp_path / "x.safetensors", f"{in_file}q.weight"
    state = {key: torch.ones(4, 256).char(), f"{key}_scale": torch.ones(4, 1)}
    for named, beside in (("int8_tensorwise", {}), ("nvfp4", {f"{in_file}q.comfy_quant": "int8_tensorwise"})):
        marker = {name: as_bytes(format=format) for name, format in beside.items()}
        save_file(state | marker, path, {"_quantization_metadata": json.dumps({"layers": {f"{listed}q": named}})})
        assert TensorFile(path).format(key).name == "int8"


def test_metadata_that_cannot_be_read_is_refused(tmp_path):
    for stated, found in (("{", "is not valid JSON"), ('{"layers": 3}', r"layers is a number, an object was expected")):
        save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "x.safetensors", {"_quantization_metadata": stated})
        with pytest.raises(CheckpointError, match=f"_quantization_metadata in the header of x.safetensors.*{found}"):
            open_models(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda state, key: state | {f"{key}.comfy_quant": as_bytes(format="int9")}, "to_q.weight is stored as int9"),
        (lambda state, key: state | {f"{key}.weight_scale": torch.zeros(())}, "to_q.weight_scale is zero"),
        (
            lambda state, key: state | {f"{key}.weight": torch.ones(128, 64).char()},
            r"to_q.weight is \(128, 64\) and shou",
        ),
        (lambda state, key: {k: v for k, v in state.items() if k != f"{key}.weight_scale"}, "with nothing beside it"),
        (
            lambda state, key: {k: v for k, v in state.items() if k != f"{key}.comfy_quant"},
            "without a marker that says",
        ),
    ],
)
def test_a_damaged_file_is_named_with_its_tensor(tmp_path, change, found):
    path = tmp_path / "x.safetensors"
    rewrite(CHECKPOINT, path, {f"{BLOCKS}1.attn1.to_q": "int8 rotated"})
    key = "model.diffusion_model.transformer_blocks.1.attn1.to_q"
    save_file(change(load_file(path), key), path, MINIATURE.files[0].metadata)
    with pytest.raises(CheckpointError, match=f"x.safetensors.*{found}") as error:
        build(open_models(path), "transformer")
    assert "\n" not in str(error.value)


def test_a_file_that_ends_within_a_tensor_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    rewrite(CHECKPOINT, path, {BLOCKS: "nvfp4"})
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)
    with pytest.raises(CheckpointError, match=r"x\.safetensors is incomplete: it has"):
        open_models(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_weights_that_stream_compute_what_weights_in_place_do(written, name, device):
    """As they arrive there: on a CPU numbers of 16 bits become float32, on an MPS device there is no float8."""
    path, dtype = written(name)[0], torch.float32 if device == "cpu" else torch.bfloat16
    arrival = arrival_on(torch.device(device), dtype)
    given = [replace(s, tokens=s.tokens.to(dtype), context=s.context.to(dtype)) for s in streams()]
    expected = build(open_models(path), "transformer", dtype)(*given)
    network = build(open_models(path), "transformer", dtype, deferred=arrival.deferred)
    store = Store(network, "cpu", link=Plain("cpu"), arrival=arrival)
    store.set_budget(0)
    with store.use():
        assert all(torch.equal(a, b) for a, b in zip(network(*given), expected))
    store.set_budget(None)
    with store.use():
        kinds = {each.dtype for each in network.parameters()}
        assert device == "cpu" or not kinds & {torch.float8_e4m3fn, torch.float8_e5m2, torch.float64}
        assert all(torch.equal(a, b) for a, b in zip(network(*given), expected))


@pytest.mark.parametrize("name", WRITERS)
def test_expanding_takes_little_beside_its_result(monkeypatch, name):
    """Less than the result itself, whatever it goes through in float32."""
    monkeypatch.setattr(quantization.stored, "_NUMBERS", 2**17)
    shape, plain = (1024, 2048), torch.nn.Linear(2048, 1024, bias=False, device="meta")
    written = {respell(f"q{end}"): tensor for end, tensor in WRITERS[name][0](torch.randn(shape)).items()}
    stored = stored_weights(written)["q.weight"]
    layer = find_format(stored).make_linear(plain, stored)
    with Peak() as peak:
        weight = layer.expanded(torch.bfloat16).keywords["weight"]
    assert weight.nbytes == 2 * 2**21 and peak.bytes < 2 * weight.nbytes


# The mean difference of a clip of the miniature from that of the plain files, in 255ths of a picture's brightness, at
# most; transformer and Gemma are both in the format. What was measured stands in ltx2_core/quantization/README.md.
PICTURE = {
    "fp8 in blocks": 0.3, "fp8 in columns": 0.3, "int8 of the tensor": 0.2, "int8 in blocks": 0.2, "int8 rotated": 0.2,
    "int8 of quanto": 0.2, "int8 of bitsandbytes": 0.2, "nvfp4": 3, "mxfp8": 0.4, "w4a8": 2, "w4a4": 2, "nf4": 3,
}  # fmt: skip
CLIP = {"width": 96, "height": 96, "frames": 33, "seed": 3, "steps": 8, "device": "cpu"}
PROMPT = "a green ball bounces twice on the right"


@pytest.fixture(scope="module")
def plain_clip(tmp_path_factory):
    """Of copies, since the miniature where it lies has a recipe of its own."""
    folder = tmp_path_factory.mktemp("plain")
    shutil.copytree(GEMMA, folder / "gemma")
    return generate(
        open_models(shutil.copy(CHECKPOINT, folder / "x.safetensors"), folder / "gemma"), PROMPT, **CLIP
    ).frames


@pytest.mark.slow
@pytest.mark.usefixtures("unheard")
@pytest.mark.parametrize("name", WRITERS)
def test_a_clip_in_every_format(written, tmp_path, plain_clip, name):
    gemma = tmp_path / "gemma"
    shutil.copytree(GEMMA, gemma)
    rewrite(GEMMA / "model.safetensors", gemma / "model.safetensors", {"language.*(self_attn|mlp)": name})
    models = open_models(written(name)[0], gemma)
    difference = 255 * float((generate(models, PROMPT, **CLIP).frames - plain_clip).abs().mean())
    share = models.source("transformer").nbytes / MINIATURE.source("transformer").nbytes
    print(f"| {name} | {share:.2f} | {difference:.2f} |")
    assert 0 < difference < PICTURE[name]
