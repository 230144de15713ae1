"""The miniature's tokenizer, which is stored in both forms, against each other and the official one."""

import logging
import random
import shutil

import pytest
import torch

from ltx2_core.checkpoint.models import BUILT_IN, MINIATURE, open_models
from ltx2_core.errors import MissingFileError
from ltx2_core.pipeline.encode_text import ReadPrompts
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.read_ahead import ReadInTurn
from ltx2_core.text import Tokenizer

FOLDER = MINIATURE / "gemma-mini"
FORMS = {"tokenizer.json": Tokenizer.from_json, "tokenizer.model": Tokenizer.from_sentencepiece}
PROMPT = "a red ball bounces twice on the left"
PROMPTS = [
    PROMPT,
    "",
    "   \n\t ",
    f"  {PROMPT}\n",
    "a  b   c\n\nd\te",
    "na\u00efve caf\u00e9, \u65e5\u672c\u8a9e, \U0001f642",
    PROMPT * 200,
]


@pytest.fixture(params=FORMS)
def tokenizer(request) -> Tokenizer:
    return FORMS[request.param]((FOLDER / request.param).read_bytes())


def test_tokens_are_the_official_ones(tokenizer):
    official = pytest.importorskip("ltx_core.text_encoders.gemma.tokenizer").LTXVGemmaTokenizer(str(FOLDER), 1024)
    for prompt in PROMPTS:
        pairs = official.tokenize_with_weights(prompt)["gemma"]
        ids, mask = tokenizer([prompt])
        assert ids.tolist() == [[int(token) for token, _ in pairs]]
        assert mask.tolist() == [[int(valid) for _, valid in pairs]]


def test_both_forms_cut_alike():
    fast, pieces = (read((FOLDER / name).read_bytes()) for name, read in FORMS.items())
    rng, parts = random.Random(0), ["ball", "red ", " a", "twice", "\n", " ", "  ", "\u00e9", "\u65e5", "<", "x", "ing"]
    for _ in range(300):
        prompt = "".join(rng.choices(parts, k=rng.randrange(20)))
        assert fast.tokens(prompt) == pieces.tokens(prompt), repr(prompt)


def test_padding_stands_on_the_left(tokenizer):
    ids, mask = tokenizer([PROMPT, ""])
    n = len(tokenizer.tokens(PROMPT))
    assert ids.shape == mask.shape == (2, 1024) and ids.dtype == torch.int64
    assert mask.sum(dim=1).tolist() == [n, 1]
    assert ids[0, -n:].tolist() == tokenizer.tokens(PROMPT) and not ids[0, :-n].any()
    assert ids[1, -1] == 2 and not ids[1, :-1].any()


def test_what_goes_beyond_1024_tokens_is_dropped_and_said(tokenizer, caplog):
    words = [f"word{i}" for i in range(1500)]
    with caplog.at_level(logging.WARNING):
        whole = tokenizer.tokens(" ".join(words[:50]))
        assert not caplog.messages
        cut = tokenizer.tokens(" ".join(words))
    assert len(cut) == 1024 and cut[:100] == whole[:100]
    assert len(caplog.messages) == 1 and "only the first 1024 are read" in caplog.messages[0]


def test_begin_stands_first_once():
    """Gemma 3's tokenizer puts it there, others do not."""
    assert Tokenizer(lambda text: [2, 7]).tokens("x") == Tokenizer(lambda text: [7]).tokens("x") == [2, 7]


@pytest.mark.parametrize("stage", [ReadPrompts(1), ReadInTurn()])
def test_a_missing_tokenizer_is_told_before_the_text_encoder_is_brought(tmp_path, monkeypatch, stage):
    folder = shutil.copytree(FOLDER, tmp_path / "gemma", ignore=shutil.ignore_patterns("tokenizer*"))
    engine = LocalEngine(open_models(BUILT_IN, folder))
    monkeypatch.setattr(LocalEngine, "use", lambda *_: pytest.fail("the text encoder was brought"))
    with pytest.raises(MissingFileError, match="gemma has no tokenizer"):
        stage.run(engine, [PROMPT])
