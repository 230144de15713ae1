"""GGUF: blocks as they are defined, headers, and models that run from such files."""

import base64
import hashlib
import itertools
import random
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator

import golden
import pytest
import torch
from gguf_files import BIAS, GOOD, PLAIN, PREFIX, common, gemma, packed, random_blocks, transformer, write, write_parts
from official import inputs
from peak import Peak
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import pad
from torch.testing import assert_close
from written import as_bytes

import ltx2_core as ltx2
from ltx2_core.__main__ import main
from ltx2_core.checkpoint import CheckpointError, TensorFile, build, open_models
from ltx2_core.checkpoint.folders import is_shard, open_file
from ltx2_core.checkpoint.gguf_header import read_gguf_header
from ltx2_core.checkpoint.loading import find_broken
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.errors import LTX2Error, MissingFileError
from ltx2_core.lora import LoraAdapter, Strengths, open_lora
from ltx2_core.memory import Plain, Store
from ltx2_core.pipeline.encode_text import ProjectFeatures
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.quantization import (
    BLOCKS,
    READABLE_BLOCKS,
    expand_blocks,
    expand_weight,
    format_of,
    gguf_marker,
    install_quantized_layers,
    stored,
)

VECTORS = golden.vectors("formats")
MINI, GEMMA = MINIATURE / "ltx2-mini.safetensors", MINIATURE / "gemma-mini"
PROMPTS = ["a red ball bounces twice on the left", "", "a  b\n\tc", "na\u00efve \u65e5\u672c \U0001f642", "<bos> x"]


def tensor(entry: dict) -> torch.Tensor:
    dtype = {"U8": torch.uint8, "F32": torch.float32}[entry["dtype"]]
    return torch.frombuffer(bytearray(base64.b64decode(entry["b64"])), dtype=dtype).view(entry["shape"])


def marker(type: str) -> torch.Tensor:
    return as_bytes(format=gguf_marker(type))


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.shape == expected.shape and torch.equal(found.view(torch.int32), expected.view(torch.int32))


@pytest.fixture(scope="module")
def tiny(tiny_files, tmp_path_factory):
    """The transformer of a tiny 2.3 as GGUF, and the checkpoint that it was made from."""
    source = tiny_files("2.3")[0]
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", *transformer(source, common("Q8_0"))), source


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """The transformer of the miniature, whose matrices are wide enough for several types, as Q8_0."""
    return write(tmp_path_factory.mktemp("gguf") / "mini-Q8_0.gguf", *transformer(MINI, common("Q8_0")))


# -- Blocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", [type for type in READABLE_BLOCKS if type in VECTORS["gguf"]])
def test_blocks_are_what_their_definition_says(type):
    vector = VECTORS["gguf"][type]
    assert vector["block"] == [BLOCKS[type].numbers, BLOCKS[type].nbytes]
    content, expected = tensor(vector["bytes"]), tensor(vector["expected"])
    assert same_bits(expand_blocks(type, content).view(expected.shape), expected)


def test_four_bits_with_scales_of_a_byte_are_what_their_definitions_say():
    """E2M1 (sign, two bits of exponent, one of mantissa) by a power of two, or by E4M3 without its sign."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = bytes(low | 3 << 4 for low in range(16))  # the first half lies in the low bits, all of the second is 1.5
    for exponent in (0, 1, 2, 127, 200, 252):
        block = torch.frombuffer(bytearray([exponent]) + codes, dtype=torch.uint8)
        expected = torch.cat((values, torch.full((16,), 1.5))).double() * 2.0 ** (exponent - 127)
        assert torch.equal(expand_blocks("MXFP4", block).double(), expected)
    scales, halves = [0x38, 0x01, 0x7E, 0x7F], bytes(low | low + 8 << 4 for low in range(8))
    block = torch.frombuffer(bytearray(scales) + 4 * halves, dtype=torch.uint8)
    expected = torch.tensor([1, 2**-9, 448, 0]).unsqueeze(1) * values  # no number is the largest code, as 0 is
    assert torch.equal(expand_blocks("NVFP4", block), expected.flatten())


def test_digits_of_base_three_are_what_their_definitions_say():
    """Each number is -1, 0 or 1, by a float16; five of them in a byte, or four."""
    numbers = torch.randint(-1, 2, (7, 256), generator=torch.Generator().manual_seed(0))
    digits, half = (numbers + 1).view(7, -1, 32), torch.tensor([0.375] * 7).half().view(7, 1).view(torch.uint8)
    two = (digits.view(7, 2, 4, 32) << torch.tensor([0, 2, 4, 6]).view(4, 1)).sum(2).flatten(1)
    assert torch.equal(expand_blocks("TQ2_0", torch.cat((two.byte(), half), 1)).view(7, 256), 0.375 * numbers)
    first, second, third = (numbers + 1).split([160, 80, 16], dim=1)
    written = [
        (part.view(7, count, -1) * torch.tensor([81, 27, 9, 3, 1])[:count].view(count, 1)).sum(1)
        for part, count in ((first, 5), (second, 5), (third, 4))
    ]
    packed = ((torch.cat(written, 1) * 256 + 242) // 243).byte()
    assert torch.equal(expand_blocks("TQ1_0", torch.cat((packed, half), 1)).view(7, 256), 0.375 * numbers)


# Digests of the numbers that gguf 0.19 reads in 40 blocks of the bytes below.
CODED = {
    "IQ3_S": "e4dcd52720809c4d", "IQ3_XXS": "fb7596a31acacf30", "IQ2_S": "a5ce42597da23dc0",
    "IQ2_XS": "968f3e951223b367", "IQ2_XXS": "63bdb1475f767cac", "IQ1_M": "bc767a83995c9979",
    "IQ1_S": "ecb1acd0042c998c",
}  # fmt: skip


@pytest.mark.parametrize("type", CODED)
def test_codes_of_several_numbers_are_those_of_the_official_package(type):
    content = (torch.arange(40 * BLOCKS[type].nbytes) * 73 % 251).byte().view(40, -1)
    content[:, 1], content[:, -1] = 0x2E, 0x2F  # in which the scale of all is a small number
    assert hashlib.sha256(expand_blocks(type, content).numpy().tobytes()).hexdigest()[:16] == CODED[type]


@pytest.mark.parametrize("type", READABLE_BLOCKS)
def test_a_layer_in_pieces_keeps_its_bytes(type, monkeypatch):
    count = 2 * 256 // BLOCKS[type].numbers
    content = random_blocks(type, 300 * count).view(300, -1)
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(512, 300, bias=False)})
    state = {"q.weight": content, "q.comfy_quant": marker(type)}
    install_quantized_layers(network, state)
    network.load_state_dict(state, assign=True)
    whole = expand_weight(network["q"], torch.float32)
    assert network["q"].weight.data_ptr() == content.data_ptr() and whole.shape == (300, 512)
    assert torch.equal(whole, expand_blocks(type, content).view(300, 512))
    monkeypatch.setattr(stored, "_NUMBERS", 128 * 512)
    assert torch.equal(expand_weight(network["q"], torch.bfloat16), whole.bfloat16())
    x = torch.randn(2, 512)
    assert_close(network["q"](x), x @ whole.T)


def test_a_table_expands_the_rows_that_are_looked_up():
    content = random_blocks("Q6_K", 40).view(40, -1)
    with torch.device("meta"):
        network = nn.ModuleDict({"words": nn.Embedding(40, 256), "out": nn.Linear(256, 2)})
    state = {"words.weight": content, "words.comfy_quant": marker("Q6_K")}
    state |= {"out.weight": torch.randn(2, 256), "out.bias": torch.randn(2)}
    install_quantized_layers(network, state, torch.float32)
    network.load_state_dict(state, assign=True)
    ids = torch.tensor([[3, 0], [39, 3]])
    assert torch.equal(network["words"](ids), expand_blocks("Q6_K", content).view(40, 256)[ids])
    assert network["words"].weight.data_ptr() == content.data_ptr()


# -- Headers -----------------------------------------------------------------------------------------------------------


def test_the_golden_file(tmp_path):
    path = tmp_path / "golden.gguf"
    path.write_bytes(base64.b64decode(VECTORS["gguf_file"]["file_b64"]))
    expected, header, file = VECTORS["gguf_file"], read_gguf_header(path), TensorFile(path)
    for name, stated in expected["tensors"].items():
        found = header.tensors[name]
        assert (found.type, found.start, found.nbytes) == (stated["type"], stated["absolute_offset"], stated["n_bytes"])
        assert found.shape == tuple(reversed(stated["ne"]))
    assert file.config == {"transformer": {"num_layers": 48}}
    assert file.metadata["general.architecture"] == "ltxv"
    assert file.shape("a.weight") == (3, 64) and file.entries["a.weight"].dtype == "Q8_0"
    assert file.shape("c.weight") == (4, 2, 8, 4)  # as its converter notes, so it is given as numbers
    numbers = {name: tensor(stated["expected"]) for name, stated in expected["tensors"].items()}
    assert same_bits(file.get("c.weight"), numbers["c.weight"].view(4, 2, 8, 4))
    assert same_bits(file.get("a.bias"), numbers["a.bias"].view(3))
    assert same_bits(file.get("b.table").float(), numbers["b.table"])
    assert same_bits(expand_blocks("Q8_0", file.get("a.weight")).view(3, 64), numbers["a.weight"])


def test_an_axis_that_gguf_leaves_away_is_put_back(tmp_path):
    stored = {"keyframes_abs_pos_embedding": packed(torch.arange(8.0), "F32"), "x.bias": packed(torch.ones(8), "F32")}
    file = TensorFile(write(tmp_path / "x.gguf", GOOD, stored))
    assert file.get("keyframes_abs_pos_embedding").shape == (1, 8) and file.get("x.bias").shape == (8,)


@pytest.mark.parametrize("alignment", [32, 64, 8])
@pytest.mark.parametrize("version", [2, 3])
def test_versions_and_alignment(tmp_path, version, alignment):
    fields = {"general.architecture": "ltxv", "general.alignment": alignment}
    fields |= {"a.list": [1, 2, 3], "a.word": "x", "a.truth": True, "a.number": 0.5}
    bias = torch.randn(3)
    path = write(tmp_path / "x.gguf", fields, {"a.bias": packed(bias, "F32"), "b.bias": packed(-bias, "F32")}, version)
    file = TensorFile(path)
    assert torch.equal(file.get("a.bias"), bias) and torch.equal(file.get("b.bias"), -bias)
    assert file.metadata == {"general.architecture": "ltxv", "a.word": "x"}


def test_a_gguf_file_is_known_by_its_content(tmp_path, mini):
    path = tmp_path / "renamed.safetensors"
    path.write_bytes(mini.read_bytes())
    assert open_models(path).version == "2.0"


# -- Models ------------------------------------------------------------------------------------------------------------


def error_of(network: nn.Module, reference: nn.Module) -> dict[str, float]:
    """How far each matrix in blocks is from that of ``reference``."""
    modules = dict(reference.named_modules())
    found = {}
    for name, module in network.named_modules():
        if format_of(module) is not None:
            wanted = modules[name].weight.float()
            found[name] = ((expand_weight(module, torch.float32) - wanted).norm() / wanted.norm()).item()
    return found


@pytest.mark.parametrize("type", ["Q8_0", "F16", "BF16", "F32"])
@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.slow
def test_a_transformer_of_any_plain_type_is_filled(tmp_path, tiny_files, type, prefix):
    source = tiny_files("2.3")[0]
    path = write(tmp_path / "x.gguf", *transformer(source, common(type)))
    if prefix:
        raw = load_file(source)
        tensors = {k: packed(v, common(type)(k, v)) for k, v in raw.items() if k.startswith(PREFIX)}
        write(path, {"general.architecture": "ltxv", "config": TensorFile(source).metadata["config"]}, tensors)
    models, original = open_models(path), open_models(source)
    for name in models.sources:
        network, reference = build(models, name, torch.float32), build(original, name, torch.float32)
        errors = error_of(network, reference)
        assert bool(errors) == (type == "Q8_0") and max(errors.values(), default=0) < 0.01
        plain = {key: value for key, value in network.state_dict().items() if value.is_floating_point()}
        for key, value in plain.items():
            assert_close(value, reference.state_dict()[key], rtol=1e-3, atol=1e-3 if type == "F16" else 0)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_every_tensor_may_have_another_type(tmp_path, first):
    """As in files whose types were chosen tensor by tensor."""
    some = READABLE_BLOCKS[first::3]  # which the miniature has enough matrices for
    types = [*some, *PLAIN]
    turns = defaultdict[int, Iterator[int]](itertools.count)

    def choose(name: str, value: torch.Tensor) -> str:
        fitting = [t for t in types if t in PLAIN or value.shape[-1] % BLOCKS[t].numbers == 0]
        return (
            fitting[next(turns[len(fitting)]) % len(fitting)] if value.ndim == 2 and name.endswith("weight") else "F32"
        )

    models = open_models(write(tmp_path / "mini-UD-Q4_K_XL.gguf", *transformer(MINI, choose)))
    file = models.files[0]
    assert {*some} <= {entry.dtype for entry in file.entries.values()}
    network = build(models, "transformer", torch.bfloat16)
    for name, module in network.named_modules():
        if format_of(module) is not None:
            key = models.source("transformer").names[f"{name}.weight"]
            numbers = expand_blocks(file.entries[key].dtype, file.get(key)).view(file.shape(key))
            assert torch.equal(expand_weight(module, torch.bfloat16), numbers.bfloat16())


def test_a_table_of_registers_in_blocks_is_read_as_numbers(tmp_path, tiny_files):
    """Some converters put everything with two axes into blocks."""
    source, name = tiny_files("2.3")[0], f"{PREFIX}video_embeddings_connector.learnable_registers"
    choose = common("F16")
    content = transformer(source, lambda key, value: "Q8_0" if key == name else choose(key, value))
    path = write(tmp_path / "x.gguf", *content)
    found = build(open_models(path), "video_connector", torch.float32).registers
    wanted = load_file(source)[name].float()
    assert found.shape == wanted.shape and (found - wanted).norm() < 0.01 * wanted.norm()


def test_a_type_that_is_not_read_is_refused_by_name(tmp_path, mini):
    name = "transformer_blocks.1.attn1.to_q.weight"
    stored = "Q1_0", (128, 256), bytes(128 * 2 * 18)
    whole = {k.removeprefix(PREFIX): packed(v, "BF16") for k, v in load_file(MINI).items() if k.startswith(PREFIX)}
    path = write(tmp_path / "bad.gguf", {"general.architecture": "ltxv"}, whole | {name: stored})
    with pytest.raises(
        CheckpointError, match=rf"bad\.gguf: .*{name} is stored as GGUF Q1_0; .*GGUF in every type but .*Q1_0"
    ):
        build(open_models(path), "transformer")


def test_the_plan_has_the_bytes_of_the_file(mini):
    models = open_models(mini)
    blueprint = Blueprint.of_files(models, None, dict.fromkeys(models.sources, torch.bfloat16))
    file, source = models.files[0], models.source("transformer")
    network = build(models, "transformer", torch.bfloat16)
    for ours, key in source.names.items():
        if format_of(network.get_submodule(ours.rpartition(".")[0])) and ours.endswith(".weight"):
            planned = blueprint.network("transformer").get_parameter(ours)
            assert planned.nbytes == file.entries[key].nbytes == network.get_parameter(ours).nbytes
    state = network.state_dict()
    planned = {key: value.nbytes for key, value in blueprint.network("transformer").state_dict().items()}
    assert planned == {key: value.nbytes for key, value in state.items()}


@pytest.mark.slow
def test_reading_takes_no_more_than_the_file(mini):
    models = open_models(mini)
    with Peak():  # torch imports some of itself when it is first watched
        build(models, "transformer", torch.bfloat16)
    tracemalloc.start()
    with Peak() as peak:
        network = build(models, "transformer", torch.bfloat16)
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    key = models.source("transformer").names["blocks.0.video.self_attn.q.weight"]
    assert network.blocks[0].video.self_attn.q.weight.data_ptr() == models.files[0].get(key).data_ptr()
    assert peak.bytes < 1.1 * mini.stat().st_size and python < 8 * 2**20


def test_a_lora_beside_blocks(mini, tmp_path):
    network = build(open_models(mini), "transformer", torch.float32)
    name, key = "blocks.0.video.self_attn.q", "diffusion_model.transformer_blocks.0.attn1.to_q"
    layer = network.get_submodule(name)
    rows, columns = layer.shape
    down, up = torch.randn(2, columns), torch.randn(rows, 2)
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, tmp_path / "lora.safetensors")
    adapter = LoraAdapter(network, [(open_lora(tmp_path / "lora.safetensors"), Strengths(0.5))])
    assert not adapter.weight_patches
    x = torch.randn(3, columns)
    with adapter.attached():
        found = layer(x)
    assert_close(found, layer(x) + 0.5 * x @ (up @ down).T)


@pytest.mark.slow
def test_a_number_that_is_none_is_found_in_a_block(mini, tmp_path):
    name = "transformer_blocks.2.ff.net.2.weight"
    start = read_gguf_header(mini).tensors[name].start + 34 * 1000
    content = bytearray(mini.read_bytes())
    content[start : start + 2] = b"\xff\x7f"  # the scale of a block is not a number
    (tmp_path / "bad.gguf").write_bytes(content)
    network = build(open_models(tmp_path / "bad.gguf"), "transformer", torch.bfloat16)
    assert f"bad.gguf has {PREFIX}{name}, which holds NaN" in find_broken([network])
    assert not find_broken([build(open_models(mini), "transformer", torch.bfloat16)])


@pytest.mark.parametrize("budget", [0, 40_000])
def test_blocks_stream_bit_for_bit(tiny, budget):
    models = open_models(tiny[0])
    section = models.config["transformer"] | {"in_channels": 128, "audio_in_channels": 128}
    given = [type(s)(pad(s.tokens, (0, 120)), *list(vars(s).values())[1:]) for s in inputs(section)]
    network = build(models, "transformer", torch.float32)
    expected = network(*given)
    store = Store(network, "cpu", link=Plain("cpu"))
    store.set_budget(budget)
    with store.use():
        assert all(torch.equal(a, b) for a, b in zip(network(*given), expected))


def test_a_component_all_in_blocks_is_planned(mini):
    """The text projection of 2.0 is one matrix without a bias."""
    models = open_models([mini, MINI])
    dtypes = dict.fromkeys((*models.sources, "text_encoder"), torch.bfloat16)
    blueprint = Blueprint.of_files(models, open_text_encoder(GEMMA), dtypes)
    need = ProjectFeatures(1).need(blueprint)
    assert need is not None and format_of(blueprint.network("text_features").both) is not None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow
def test_damaged_files_are_answered_in_a_sentence(tmp_path, tiny, seed):
    """Other bytes, lengths and counts that cannot be, ends that are missing: nothing but our errors, and soon."""
    chance = random.Random(seed)
    gemma_file = write(tmp_path / "g.gguf", *gemma(GEMMA, "Q8_0"))
    reads = {
        tiny[0]: lambda path: build(open_models(path), "transformer", torch.bfloat16),
        gemma_file: lambda path: (open_text_encoder(path).tokenizer(), build_text_encoder(open_text_encoder(path))),
    }
    refused = 0
    for _ in range(40):
        source = chance.choice(list(reads))
        content = bytearray(source.read_bytes())
        at = chance.randrange(4, chance.choice((64, 2000, 20000)))
        content[at : at + 8] = chance.choice(
            (b"\xff" * 8, bytes(8), b"\0" * 7 + b"\x80", bytes([chance.randrange(256)]))
        )
        (tmp_path / "x.gguf").write_bytes(content[: chance.choice((None, chance.randrange(5, len(content))))])
        start = time.process_time()
        try:
            reads[source](tmp_path / "x.gguf")
        except LTX2Error as error:
            said, refused = str(error), refused + 1
            assert said and "\n" not in said and len(said) < 700
        assert time.process_time() - start < 10
    assert refused > 20


# -- Files in parts ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_parts_are_one_model(tmp_path, mini):
    paths = write_parts(tmp_path / "mini", *transformer(MINI, common("Q8_0")), count=3)
    assert [is_shard(path.name) for path in paths] == [False, True, True]
    whole = build(open_models(mini), "transformer", torch.bfloat16).state_dict()
    for path in paths:
        found = build(open_models(path), "transformer", torch.bfloat16).state_dict()
        assert all(torch.equal(value, found[key]) for key, value in whole.items())
    paths[1].unlink()
    with pytest.raises(MissingFileError, match=r"one of 3 files of a model, and mini-00002-of-00003\.gguf is missing"):
        open_models(paths[0])


def test_parts_that_hold_the_same_are_refused(tmp_path):
    paths = write_parts(tmp_path / "x", GOOD, BIAS, count=2)
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(CheckpointError, match=r"Two of the files of x-00001.*hold the tensor a\.bias"):
        open_file(paths[0])


def test_gemma_in_parts(tmp_path):
    paths = write_parts(tmp_path / "gemma", *gemma(GEMMA, "Q8_0"), count=2)
    whole = open_text_encoder(write(tmp_path / "gemma.gguf", *gemma(GEMMA, "Q8_0")))
    parts = open_text_encoder(paths[0])
    assert parts.config == whole.config and parts.tokenizer().tokens("a ball") == whole.tokenizer().tokens("a ball")
    state = build_text_encoder(whole).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in build_text_encoder(parts).state_dict().items())


# -- The whole way -----------------------------------------------------------------------------------------------------


def test_inspect(mini, tmp_path, capsys):
    assert main(["inspect", str(mini), str(write(tmp_path / "g.gguf", *gemma(GEMMA, "Q8_0")))]) == 0
    said = capsys.readouterr().out
    assert "LTX-2.0 (told by its tensors" in said and "2,052,736 parameters, 2.8 MB (Q8_0, BF16, F32)" in said
    assert "needs: video_encoder, video_decoder" in said
    assert "Gemma 3 text encoder, 6 layers of width 64, with tokenizer" in said


def quantised(value: torch.Tensor, type: str):
    """As the official package makes it."""
    gguf = pytest.importorskip("gguf")
    if type in PLAIN:
        return packed(value, type)
    blocks = gguf.quants.quantize(value.float().numpy(), gguf.GGMLQuantizationType[type])
    return type, tuple(value.shape), blocks.tobytes()


WRITTEN = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")  # by the package; the others it only reads


@pytest.mark.parametrize("type", READABLE_BLOCKS)
def test_blocks_are_those_of_the_official_package(type):
    gguf = pytest.importorskip("gguf")
    content = random_blocks(type, 500)
    expected = gguf.quants.dequantize(content.numpy(), gguf.GGMLQuantizationType[type])
    assert same_bits(expand_blocks(type, content).view(500, -1), torch.from_numpy(expected))


@pytest.mark.parametrize("type", WRITTEN)
def test_a_file_that_the_official_package_writes(tmp_path, type):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "ltxv")
    fields, tensors = transformer(MINI, common(type), quantised)
    writer.add_string("config", fields["config"])
    writer.add_array("a.words", ["one", "two"])
    for name, (form, shape, content) in tensors.items():
        kind = gguf.GGMLQuantizationType[form]
        rows = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(*shape[:-1], -1).numpy()
        writer.add_tensor(name, rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = build(open_models(write(tmp_path / "ours.gguf", fields, tensors)), "transformer", torch.bfloat16)
    found = build(open_models(tmp_path / "x.gguf"), "transformer", torch.bfloat16)
    assert {type, "BF16", "F32"} == {entry.dtype for entry in TensorFile(tmp_path / "x.gguf").entries.values()} - {"U8"}
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in ours.state_dict().items())


CLIP = {"prompt": "a green ball bounces twice on the left", "seed": 3, "steps": 8}  # as far from exact as with 20


@pytest.fixture(scope="module")
def exact_clip():
    return ltx2.generate(open_models("miniature"), **CLIP).frames


@pytest.mark.parametrize(("type", "decibels"), zip(WRITTEN, (65, 45, 45, 38, 33)))
@pytest.mark.slow
@pytest.mark.usefixtures("unheard")
def test_the_miniature_in_blocks_makes_nearly_the_same_clip(tmp_path, exact_clip, type, decibels):
    """Transformer, connectors, text projection and Gemma; the table in quantization/README.md has what was measured."""
    checkpoint = write(tmp_path / "mini.gguf", *transformer(MINI, common(type), quantised))
    encoder = write(tmp_path / "gemma.gguf", *gemma(GEMMA, type, quantised))
    found = ltx2.generate(open_models([checkpoint, MINI], encoder), **CLIP)
    error = (found.frames - exact_clip).square().mean()
    assert 0 < error < 10 ** (-decibels / 10)


@pytest.mark.slow
def test_the_command_line_runs_from_gguf_files(tmp_path):
    checkpoint = write(tmp_path / "mini.gguf", *transformer(MINI, common("Q8_0")))
    encoder = write(tmp_path / "gemma.gguf", *gemma(GEMMA, "Q8_0"))
    words = ["generate", "--prompt", "a red ball", "--text-encoder", str(encoder), "--output", str(tmp_path / "x.mp4")]
    small = ["--width", "64", "--height", "64", "--frames", "9", "--steps", "2"]
    assert main([*words, *small, "--checkpoint", str(checkpoint), str(MINI)]) == 0
    assert (tmp_path / "x.mp4").stat().st_size > 1000


def test_what_a_transformer_alone_lacks_is_said_with_its_place(tmp_path, tiny, tiny_files, capsys):
    encoder = tiny_files("2.3")[1]
    words = ["generate", "--prompt", "x", "--text-encoder", str(encoder), "--output", str(tmp_path / "x.mp4")]
    assert main([*words, "--checkpoint", str(tiny[0])]) == 2  # before anything is read
    said = capsys.readouterr().err
    assert "tiny.gguf has no video decoder; choose the file that holds it as video_vae in LTX-2 Load Model" in said
