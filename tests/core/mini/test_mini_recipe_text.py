"""The text path of the recipe: captions and what they mean, the Gemma that is drawn, the networks that learn."""

import filecmp

import numpy as np
import pytest
import torch

from ltx2_core.checkpoint import build, open_models
from ltx2_core.mini import world
from ltx2_core.mini.recipe import text
from ltx2_core.mini.recipe.text import GEMMA, NOTHING, QUESTIONS, ROWS, UNSAID
from ltx2_core.text import connect, encode_prompts

NETWORKS = ("text_features", "video_connector", "audio_connector")


@pytest.fixture(scope="module")
def shipped():
    models = open_models("miniature")
    return {name: build(models, name, torch.float32) for name in NETWORKS}


def heard_in(caption: str) -> list:
    """What a reader would answer to the questions."""
    words = caption.replace(",", "").split()

    def said(spellings: dict) -> object:
        found = [name for name, ways in spellings.items() if any(f" {way} " in f" {' '.join(words)} " for way in ways)]
        assert len(found) <= 1
        return found[0] if found else UNSAID

    named = [{name: (name,) for name in names} for names in (world.COLOURS, world.ROOMS)]
    return [said(named[0]), said(world.PLACE_WORDS), said(world.COUNT_WORDS), said(named[1])]


def test_answers_are_true():
    rng = np.random.default_rng(0)
    drawn = [text.sample_caption(rng) for _ in range(300)]
    for caption, answers in drawn:
        assert heard_in(caption) == [possible[answer] for possible, answer in zip(QUESTIONS.values(), answers)]
    assert {answers[-1] for _, answers in drawn} == {0, 1, 2}


def test_every_meaning_has_its_number_and_captions_that_say_it():
    captions = text.captions_by_meaning(np.random.default_rng(0), variants=3)
    assert len(captions) == 5 * 3 * 3 * 3 + 1 and {len(some) for some in captions.values()} == {3}
    for number, some in captions.items():
        for caption in some:
            colour, place, count, room = heard_in(caption)
            scene = world.Scene(colour, place, "not heard", (0.0,) * (0 if count == UNSAID else count), 1.0, 0.0)
            assert number == (NOTHING if colour == UNSAID else text.meaning(scene, room))


@pytest.mark.slow
def test_the_shipped_gemma_is_drawn_again(tmp_path):
    text.write_gemma(tmp_path)
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert filecmp.cmp(tmp_path / name, GEMMA / name, shallow=False), name


@pytest.mark.slow
def test_the_shipped_tokenizer_is_fitted_again(tmp_path):
    pieces = pytest.importorskip("sentencepiece").SentencePieceProcessor
    text.write_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert filecmp.cmp(tmp_path / name, GEMMA / name, shallow=False), name
    made, given = (pieces(model_file=str(folder / "tokenizer.model")) for folder in (tmp_path, GEMMA))
    assert len(made) == len(given) == text.SPOKEN
    for i in range(len(made)):
        assert (made.id_to_piece(i), made.get_score(i)) == (given.id_to_piece(i), given.get_score(i))


@pytest.mark.slow
def test_training_goes_on_where_it_was_and_moves_everything(tmp_path, monkeypatch):
    def run() -> dict:
        text.train_text(tmp_path, 0.5 / 60, "cpu", 0)
        return torch.load(tmp_path / "text.pt", weights_only=True)

    first = run()
    assert first["step"] > 0
    monkeypatch.setattr(text, "FIRST_STEPS", 0)  # from now on with contexts of 1024 rows
    second = run()
    assert second["step"] > first["step"]
    for name in (*NETWORKS, "examiners"):
        for key, value in second[name].items():
            assert value.isfinite().all() and not value.equal(first[name][key]), f"{name}.{key}"
    for name in NETWORKS:
        build(open_models("miniature"), name, torch.float32).load_state_dict(second[name])


@pytest.mark.slow
def test_banks_hold_rows_of_the_products_contexts(tmp_path, monkeypatch, shipped):
    captions = {7: ["a red ball bounces twice on the left", "blue ball bounces once, middle, dark background"],
                NOTHING: ["", "slow cinematic rain"]}  # fmt: skip
    monkeypatch.setattr(text, "captions_by_meaning", lambda rng: captions)
    torch.save({name: network.state_dict() for name, network in shipped.items()}, tmp_path / "text.pt")
    text.encode_captions(tmp_path, 1, "cpu", 0)
    stored = torch.load(tmp_path / "captions.pt", weights_only=True)
    assert stored["nothing"] == NOTHING and stored["banks"].keys() == captions.keys()

    read = text.Reader("cpu")
    for number, some in captions.items():
        bank = stored["banks"][number]
        assert bank.shape == (2, len(some), ROWS, 64) and bank.dtype == torch.float16
        for i, features in enumerate(encode_prompts(read.encoder, read.tokenizer, shipped["text_features"], some)):
            contexts = connect(features, shipped["video_connector"], shipped["audio_connector"])
            found = []
            for rows, context in zip(bank[:, i].float(), (contexts.video[0], contexts.audio[0])):
                distance, row = torch.cdist(rows, context).min(dim=1)
                assert distance.max() < 0.01
                found.append(row.tolist())
            assert found[0] == found[1] and len(set(found[0])) == ROWS
