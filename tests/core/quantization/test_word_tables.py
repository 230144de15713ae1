"""Tables of words in every format: rows are expanded when they are looked up, and LoRAs act beside them."""

from collections import Counter

import pytest
import torch
from agreement import relative_error
from peak import Peak
from safetensors.torch import save_file
from torch import nn
from written import FORMAT, WRITERS, expected_of, file_of, rewrite, tiles, write_mixed_gemma

from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.errors import CheckpointError, SettingError
from ltx2_core.lora import LoraAdapter, Strengths, open_text_lora
from ltx2_core.memory import Plain, Store
from ltx2_core.mini.evaluate import GEMMA
from ltx2_core.quantization import FORMATS, format_of, install_quantized_layers, matrix_shapes, plain_dtype, respell
from ltx2_core.quantization.embedding import QuantizedEmbedding

pytestmark = pytest.mark.usefixtures("without_gradients")

TABLE = "embed_tokens"
IDS = torch.tensor([[5, 3, 511, 3, 0, 130, 77]])


def table_of(state: dict, shape: tuple[int, int]) -> QuantizedEmbedding:
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Embedding(*shape)})
    install_quantized_layers(network, state)
    network.load_state_dict(state, assign=True)
    return network["q"]


@pytest.mark.parametrize("name", FORMAT)
def test_rows_are_those_of_the_whole_matrix(name):
    expected, dtype = expected_of(name)
    table = table_of(file_of(name), tuple(expected.shape))
    ids = torch.tensor([[len(expected) - 1, 0], [2, len(expected) - 1]])
    assert isinstance(table, QuantizedEmbedding) and table.format.name == FORMAT[name][0]
    torch.testing.assert_close(table(ids).to(dtype).float(), expected[ids], atol=FORMAT[name][1], rtol=FORMAT[name][1])


@pytest.mark.parametrize("name", WRITERS)
def test_no_other_rows_are_expanded(name):
    made = WRITERS[name][0](torch.randn(2048, 64))
    table, ids = table_of({respell(f"q{end}"): each for end, each in made.items()}, (2048, 64)), IDS.clone()
    with Peak() as peak:
        rows = table(ids)
    assert rows.shape == (1, 7, 64) and rows.dtype == torch.float32
    assert peak.bytes < 12 * rows.nbytes < 2048 * 64 * 4 / 20


def hidden_states(path):
    files = open_text_encoder(path)
    encoder = build_text_encoder(files, torch.float32)
    return files, encoder, encoder(IDS, torch.ones_like(IDS))


@pytest.mark.parametrize("name", WRITERS)
def test_gemma_reads_words_from_a_table_in_every_format(tmp_path, name):
    rewrite(GEMMA / "model.safetensors", tmp_path / "gemma.safetensors", {TABLE: name})
    _, encoder, found = hidden_states(tmp_path / "gemma.safetensors")
    table = encoder.model.embed_tokens
    assert isinstance(table, QuantizedEmbedding) and format_of(table) is FORMATS[WRITERS[name][1]]
    assert plain_dtype(encoder) == torch.float32 and matrix_shapes(encoder)[f"model.{TABLE}.weight"] == (512, 64)
    plain = build_text_encoder(open_text_encoder(GEMMA), torch.float32)
    plain.model.embed_tokens.weight.data = table(torch.arange(512))
    assert all(torch.equal(a, b) for a, b in zip(found, plain(IDS, torch.ones_like(IDS)), strict=True))
    store = Store(encoder, "cpu", link=Plain("cpu"))
    store.set_budget(0)
    with store.use():
        assert all(torch.equal(a, b) for a, b in zip(found, encoder(IDS, torch.ones_like(IDS)), strict=True))


@pytest.mark.parametrize("name", ["int8 rotated", "nvfp4"])
def test_a_lora_beside_a_table_in_fewer_bits(tmp_path, name):
    """The rows that are looked up get theirs of the product; the table itself stays."""
    rewrite(GEMMA / "model.safetensors", tmp_path / "gemma.safetensors", {TABLE: name})
    down, up = torch.randn(4, 64), torch.randn(512, 4)
    key = f"text_encoders.gemma3_12b.transformer.model.{TABLE}"
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, tmp_path / "lora.safetensors")
    _, encoder, plain = hidden_states(tmp_path / "gemma.safetensors")
    lora = open_text_lora(tmp_path / "lora.safetensors")
    adapter = LoraAdapter(encoder, [(lora, Strengths(0.5))], "text_encoder")
    assert not adapter.weight_patches and [*adapter.beside] == [f"model.{TABLE}.weight"]
    table = encoder.model.embed_tokens
    rows = table(IDS)
    with adapter.attached():
        torch.testing.assert_close(table(IDS), rows + 0.5 * (up @ down)[IDS])
        assert not torch.allclose(encoder(IDS, torch.ones_like(IDS))[0], plain[0], atol=1e-2)
    assert torch.equal(table(IDS), rows)
    save_file({f"{key}.diff": torch.randn(512, 64)}, tmp_path / "full.safetensors")
    full = open_text_lora(tmp_path / "full.safetensors")
    with pytest.raises(SettingError, match=r"full.safetensors changes the table of words.*choose a text encoder in bf"):
        LoraAdapter(encoder, [(full, Strengths())], "text_encoder")


def test_the_gemma_of_comfyuis_templates(tmp_path):
    """The file that a newcomer has: its tokenizer, sizes, formats, layer by layer, and what it computes."""
    path = tmp_path / "gemma_3_12B_it_fp4_mixed.safetensors"
    write_mixed_gemma(GEMMA, path)
    files, encoder, found = hidden_states(path)
    assert files.kind.title == "Gemma 3" and files.tokenizer()(["a red ball"])[0].max() < 512
    formats = Counter(each and each.name for each in map(format_of, encoder.modules()) if each is not None)
    assert formats == {"nvfp4": 5 * 6 - 1, "fp8": 7 + 5}
    assert not isinstance(encoder.model.embed_tokens, QuantizedEmbedding)
    plain = build_text_encoder(open_text_encoder(GEMMA), torch.float32)
    true = plain(IDS, torch.ones_like(IDS))
    for name, layer in encoder.named_modules():
        if format_of(layer) is not None:
            plain.get_submodule(name).weight.data = layer.expand_weight(torch.float32)
    for ours, same, other in zip(found, plain(IDS, torch.ones_like(IDS)), true, strict=True):
        assert relative_error(ours, same) < 1e-5 and relative_error(ours, other) < 0.4
    assert files.formats[:2] != ["BF16"] and {"nvfp4", "fp8", "BF16"} <= set(files.formats)


@pytest.mark.parametrize(("name", "padding"), [("nvfp4_padded_20x40", 0x7F), ("mxfp8_padded_8x48", 0xFF)])
def test_what_fills_up_tiles_of_scales_may_be_anything(name, padding):
    """Writers leave there what was in memory; scales that count are still checked."""
    expected, _ = expected_of(name)
    state = file_of(name)
    scales = state["q.weight_scale"].view(torch.uint8)
    blocks = -(-expected.shape[1] // (16 if name.startswith("nvfp4") else 32))
    mark = torch.zeros(128, 4, dtype=torch.uint8)
    mark[len(expected) :], mark[:, blocks:] = 1, 1
    scales.view(-1)[tiles(mark).flatten() == 1] = padding
    with torch.device("meta"):
        network = nn.ModuleDict({"q": nn.Linear(*expected.shape[::-1], bias=False)})
    install_quantized_layers(network, given := dict(state))
    network.load_state_dict(given, assign=True)
    assert torch.equal(network["q"].expand_weight(torch.float32), expected)
    scales.view(-1)[0] = padding
    with pytest.raises(CheckpointError, match=r"q\.weight_scale holds NaN"):
        table_of(dict(state), tuple(expected.shape))
