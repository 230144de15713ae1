"""Gemma from a GGUF file: the hidden states of its folder, its table of words, and the tokenizer inside."""

import tracemalloc

import pytest
import torch
from gguf_files import BIAS, gemma, packed, vocabulary, write

from ltx2_core.checkpoint import CheckpointError, TensorFile, open_models
from ltx2_core.checkpoint.belonging import check_training
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.errors import MissingFileError, SettingError
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.text import Tokenizer

GEMMA = MINIATURE / "gemma-mini"


PROMPTS = ["a red ball bounces twice on the left", "", "a  b\n\tc", "na\u00efve \u65e5\u672c \U0001f642", "<bos> x"]


@pytest.mark.parametrize(("type", "limit"), [("F32", 0), ("BF16", 0), ("F16", 2e-3), ("Q8_0", 0.03)])
def test_gemma_gives_the_hidden_states_of_its_folder(tmp_path, type, limit):
    files, folder = open_text_encoder(write(tmp_path / "g.gguf", *gemma(GEMMA, type))), open_text_encoder(GEMMA)
    ours, theirs = files.config.to_json(), folder.config.to_json()
    assert ours.pop("rms_norm_eps") == pytest.approx(theirs.pop("rms_norm_eps")) and ours == theirs
    ids, mask = folder.tokenizer()(PROMPTS[:2])
    ids, mask = ids[:, -16:], mask[:, -16:]
    encoder = build_text_encoder(files, torch.float32)
    for found, wanted in zip(encoder(ids, mask), build_text_encoder(folder, torch.float32)(ids, mask)):
        rows = mask.bool()
        assert (found[rows] - wanted[rows]).norm() <= limit * wanted[rows].norm()


def test_positions_are_scaled_as_the_file_says_and_not_where_it_says_nothing(tmp_path):
    """As llama.cpp reads it: the 1B model, which may enhance prompts, scales none."""
    for stated, factor in (({"gemma3.rope.scaling.factor": 4.0}, 4), ({"gemma3.rope.scaling.factor": None}, 1)):
        fields, tensors = gemma(GEMMA, "F32")
        path = write(tmp_path / "g.gguf", {k: v for k, v in (fields | stated).items() if v is not None}, tensors)
        assert open_text_encoder(path).config.rope_factor == factor


def test_an_output_layer_of_its_own_is_known_and_not_read(tmp_path):
    fields, tensors = gemma(GEMMA, "F32")
    files = open_text_encoder(
        write(tmp_path / "g.gguf", fields, tensors | {"output.weight": tensors["token_embd.weight"]})
    )
    assert files.names.keys() == open_text_encoder(GEMMA).names.keys()


def test_the_table_of_words_stays_as_it_is_stored(tmp_path):
    files = open_text_encoder(write(tmp_path / "g.gguf", *gemma(GEMMA, "Q8_0")))
    encoder = build_text_encoder(files)
    (file,) = files.shards
    table = encoder.model.embed_tokens.weight
    assert table.data_ptr() == file.get("model.embed_tokens.weight").data_ptr() and table.dtype == torch.uint8
    models = open_models("miniature")
    dtypes = dict.fromkeys((*models.sources, "text_encoder"), torch.bfloat16)
    planned = Blueprint.of_files(models, files, dtypes).network("text_encoder").state_dict()
    assert {key: value.nbytes for key, value in planned.items()} == {
        key: value.nbytes for key, value in encoder.state_dict().items()
    }


def test_the_tokenizer_inside_gives_the_ids_of_the_real_one(tmp_path):
    files = open_text_encoder(write(tmp_path / "g.gguf", *gemma(GEMMA, "Q8_0")))
    real = Tokenizer.from_sentencepiece((GEMMA / "tokenizer.model").read_bytes())
    found = files.tokenizer()
    assert found.words == real.words
    generator = torch.Generator().manual_seed(0)
    pieces = ["ball", "red ", " a", "twice", "\n", " ", "  ", "\u00e9", "\u65e5", "<", "x", "ing", "<eos>"]
    for _ in range(300):
        picked = torch.randint(len(pieces), (int(torch.randint(20, (), generator=generator)),), generator=generator)
        prompt = "".join(pieces[index] for index in picked)
        assert found.tokens(prompt) == real.tokens(prompt), repr(prompt)


def test_words_that_are_never_cut_are_found_whole(tmp_path):
    """Gemma's marks of turns, and runs of spaces, which llama.cpp's converter writes as spaces."""
    fields, tensors = gemma(GEMMA, "Q8_0")
    for number, word in ((506, "<start_of_turn>"), (507, "   ")):
        fields["tokenizer.ggml.tokens"][number] = word
        fields["tokenizer.ggml.token_type"][number] = 4
    found = open_text_encoder(write(tmp_path / "g.gguf", fields, tensors)).tokenizer()
    assert found.tokens("a<start_of_turn>b").count(506) == 1 and found.tokens("a   b").count(507) == 1
    assert 507 not in found.tokens("a  b")


def test_a_tokenizer_beside_counts_where_none_is_inside(tmp_path):
    fields, tensors = gemma(GEMMA, "Q8_0")
    bare = {key: value for key, value in fields.items() if not key.startswith("tokenizer.")}
    files = open_text_encoder(write(tmp_path / "g.gguf", bare, tensors))
    with pytest.raises(MissingFileError, match=r"g\.gguf has no tokenizer"):
        files.tokenizer()
    (tmp_path / "tokenizer.json").write_bytes((GEMMA / "tokenizer.json").read_bytes())
    assert files.tokenizer().tokens(PROMPTS[0]) == open_text_encoder(GEMMA).tokenizer().tokens(PROMPTS[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": ["a", "b"]}, r"2 words, 508 scores and 508 kinds"),
        ({"scores": None}, "lacks its scores"),
        ({"token_type": [9] * 508}, "word 0 of kind 9"),
        ({"tokens": ["same"] * 508}, "cannot be read"),
    ],
)
def test_a_tokenizer_that_cannot_be(tmp_path, change, said):
    fields, tensors = gemma(GEMMA, "Q8_0")
    fields |= {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    fields = {key: value for key, value in fields.items() if value is not None}
    files = open_text_encoder(write(tmp_path / "g.gguf", fields, tensors))
    with pytest.raises(CheckpointError, match=said) as error:
        files.tokenizer()
    assert "g.gguf" in str(error.value)


@pytest.mark.slow
def test_a_large_vocabulary_is_read_without_holding_its_words(tmp_path):
    """As large as that of Gemma 3: 262,144 words with scores and kinds."""
    fields, count = vocabulary((GEMMA / "tokenizer.model").read_bytes()), 262144
    added = count - len(fields["tokenizer.ggml.tokens"])
    fields["tokenizer.ggml.tokens"] += [f"word{number}" for number in range(added)]
    fields["tokenizer.ggml.scores"] += [-1000.0] * added
    fields["tokenizer.ggml.token_type"] += [1] * added
    path = write(tmp_path / "g.gguf", {"general.architecture": "gemma3"} | fields, BIAS)
    tracemalloc.start()
    file = TensorFile(path)
    kept = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kind, model = file.tokenizer_inside
    assert kept < 2**20
    assert kind == "spiece_model" and Tokenizer.from_sentencepiece(model).words == count


@pytest.mark.slow
def test_gemma_4_as_it_was_published_is_refused(tmp_path, tiny_files):
    """That of LTX-2.5 was trained anew, and says so in its header."""
    tensors = gemma(GEMMA, "Q8_0")[1] | {"blk.0.layer_output_scale.weight": packed(torch.ones(1), "F32")}
    path = write(tmp_path / "g.gguf", {"general.architecture": "gemma4"}, tensors)
    files = open_text_encoder(path)
    assert files.kind.title == "Gemma 4"
    for version, words in (("2.3", "is Gemma 4, which .* does not read"), ("2.5", "was trained with the text encoder")):
        with pytest.raises(SettingError, match=words):
            check_training(files, open_models(tiny_files(version)[0]))
