"""Gemma looks at pictures: the part for pictures and what reads it against transformers; and who cannot see."""

from dataclasses import replace

import pytest
import torch
from instruct import write_instruct
from safetensors.torch import load_file, save_file

import ltx2_core as ltx2
from ltx2_core.checkpoint.build import build
from ltx2_core.checkpoint.encoder_alone import VISION, EncoderAlone
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.conditioning import Picture
from ltx2_core.errors import SettingError
from ltx2_core.memory.partition import Weights
from ltx2_core.pipeline import enhance as enhancing
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.enhance import SeePicture, WritePrompt, with_enhanced_prompt
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.pipeline.stage import Events
from ltx2_core.settings import Enhancing, Request
from ltx2_core.text import VisionConfig, VisionEncoder, prepare_picture
from ltx2_core.text.enhance import ABOUT_PICTURE
from ltx2_core.text.gemma_layers import Past
from ltx2_core.text.write import PICTURE_MARKS, open_chat

PROMPT = "a red ball bounces twice on the left"


def picture(seed: int = 0) -> torch.Tensor:
    """A picture (1, H, W, 3) in 0..1."""
    return torch.rand((1, 50, 40, 3), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def instruct(tmp_path_factory):
    return write_instruct(tmp_path_factory.mktemp("gemma") / "instruct")


@pytest.fixture(scope="module")
def theirs():
    """A small Gemma 3 with pictures, whose local layers see less than a picture has."""
    transformers = pytest.importorskip("transformers")
    text = {"num_hidden_layers": 6, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "vocab_size": 300,
            "sliding_window": 12}  # fmt: skip
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2,
              "image_size": 112, "patch_size": 14, "vision_use_head": False}  # fmt: skip
    vision["model_type"] = "siglip_vision_model"
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=16, image_token_index=299
    )
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for each in model.parameters():
            each.copy_(torch.randn(each.shape) * (0.3 if each.ndim == 1 else 2 / each.shape[-1] ** 0.5))
    return model


@pytest.mark.slow
@pytest.mark.oracle
def test_what_is_seen_and_written_is_what_transformers_does(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(2))
    network = build(EncoderAlone(tmp_path, sees=True), VISION, torch.float32)
    seen = network(pixels)
    with torch.no_grad():
        expected = theirs.model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)

    encoder = build_text_encoder(open_text_encoder(tmp_path), torch.float32)
    ids = torch.randint(4, 290, (1, 40), generator=torch.Generator().manual_seed(1))
    kinds = torch.zeros_like(ids)
    ids[0, 10:26], kinds[0, 10:26] = 299, 1
    with torch.no_grad():
        answer = theirs(ids, pixel_values=pixels, token_type_ids=kinds).logits[0, -1]
    past = [Past() for _ in range(6)]
    torch.testing.assert_close(encoder.read_on(ids[0], past, slice(10, 26), seen[0]), answer, rtol=1e-4, atol=1e-4)
    blind = encoder.read_on(ids[0], [Past() for _ in range(6)], slice(10, 26), seen[0].flip(0))
    assert (blind - answer).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.oracle
def test_a_picture_is_prepared_as_by_their_processor():
    processing = pytest.importorskip("transformers.models.gemma3.image_processing_gemma3")
    size, half = {"height": 112, "width": 112}, [0.5] * 3
    processor = processing.Gemma3ImageProcessor(size=size, image_mean=half, image_std=half)
    for height, width in ((50, 40), (200, 300), (112, 112)):
        whole = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        expected = processor(images=whole, return_tensors="pt")["pixel_values"]
        prepared = prepare_picture(whole.movedim(0, -1)[None].float() / 255, 112)
        torch.testing.assert_close(prepared, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tower", ["vision_model.", "model.vision_tower.", "model.vision_tower.vision_model."])
def test_the_part_is_found_in_the_names_of_every_kind_of_file(instruct, tmp_path, tower):
    state = load_file(instruct / "model.safetensors")
    root = "model." if tower.startswith("model.") else ""
    renamed = {
        name.replace("vision_tower.vision_model.", tower).replace("multi_modal_", f"{root}multi_modal_"): each
        for name, each in state.items()
    }
    write_instruct(tmp_path / "other")
    save_file(renamed, tmp_path / "other/model.safetensors")
    first, other = (
        SeePicture().run(LocalEngine(EncoderAlone(each, sees=True)), picture())
        for each in (instruct, tmp_path / "other")
    )
    assert torch.equal(first, other) and first.shape == (4, 64)


def test_a_picture_stands_between_its_marks_before_the_text(instruct):
    tokenizer = open_text_encoder(instruct).tokenizer()
    chat = open_chat(tokenizer, "Say it well.", f"{PROMPT}<start_of_image>", 4)
    opens, closes = map(tokenizer.find, PICTURE_MARKS)
    first, behind = chat.picture.start, chat.picture.stop
    assert behind - first == 4 and chat.ids[first - 1] == opens and chat.ids[behind] == closes
    assert chat.ids.count(opens) == chat.ids.count(closes) == 1
    before, after = (tokenizer.join(ids) for ids in (chat.ids[:first], chat.ids[behind:]))
    assert before.endswith("Say it well.\n\n\n\n") and after.startswith(f"\n\n{PROMPT}")


@pytest.mark.slow
def test_the_picture_counts_and_is_looked_at_once(instruct, monkeypatch, tmp_path):
    monkeypatch.setenv("LTX2_CACHE", str(tmp_path))
    settings = Enhancing(longest=16, temperature=1.5)
    engine = LocalEngine(EncoderAlone(instruct, sees=True))
    seen = [SeePicture().run(engine, picture(seed)) for seed in (0, 1)]
    first, other = (WritePrompt(16).run(engine, PROMPT, settings, each * 50) for each in seen)
    assert first != other and first != WritePrompt(16).run(engine, PROMPT, settings)
    looked = []
    monkeypatch.setattr(enhancing.SeePicture, "run", lambda self, engine, given: looked.append(given) or seen[0])
    for seed in (0, 0, 1):
        enhancing.enhance(engine, "it is so", settings, picture=picture(seed))
    assert len(looked) == 2


@pytest.mark.slow
def test_the_first_frame_of_a_clip_is_looked_at_and_a_later_one_is_not(instruct, monkeypatch):
    told = []
    monkeypatch.setattr(
        enhancing, "open_chat", lambda tokenizer, told_, text, tokens: told.append((told_, tokens)) or open_chat(
            tokenizer, told_, text, tokens)
    )  # fmt: skip
    models, later = ltx2.open_models("miniature"), Picture(picture(1), frame=8)
    request = Request.of(PROMPT, enhance=Enhancing(longest=16), enhancer=instruct, cache=False, conditions=[later])
    with_enhanced_prompt(models, request, Events())
    with_enhanced_prompt(models, replace(request, conditions=(later, Picture(picture()))), Events())
    assert [(ABOUT_PICTURE in text, tokens) for text, tokens in told] == [(False, 0), (True, 4)]


@pytest.mark.slow
def test_who_cannot_see_is_told_and_writes_all_the_same(instruct, tmp_path):
    blind = write_instruct(tmp_path / "blind")
    state = load_file(instruct / "model.safetensors")
    text = {name: each for name, each in state.items() if name.startswith("language_model.")}
    save_file(text, blind / "model.safetensors")
    with pytest.raises(SettingError, match="blind cannot look at pictures: it has no vision_tower"):
        EncoderAlone(blind, sees=True)
    findings = []
    request = Request.of("it is so", enhance=Enhancing(longest=16), enhancer=blind, cache=False)
    request = replace(request, conditions=(Picture(picture()),))
    with_enhanced_prompt(ltx2.open_models("miniature"), request, Events(on_finding=findings.append))
    assert "the picture was not looked at" in str(findings[0])


@pytest.mark.slow
def test_the_need_of_looking_is_that_of_the_part_at_full_size():
    with torch.device("meta"):
        network = VisionEncoder(VisionConfig()).bfloat16()
    made = Blueprint("Gemma 3", {}, {VISION: dict(network.state_dict())}, None, made={VISION: network})
    need = SeePicture().need(made)
    tower = sum(each.numel() for name, each in network.named_parameters() if name not in ("projection", "norm.weight"))
    assert tower == 416_866_032  # of SigLIP-SO400M without its head; arXiv 2503.19786, table 1, says 417 M
    assert need.weights.total == Weights.of(network).total and len(need.weights.blocks.sizes) == 27
    assert need.cost.products > 2 * 4096 * 27 * (4 * 1152**2 + 2 * 1152 * 4304)
