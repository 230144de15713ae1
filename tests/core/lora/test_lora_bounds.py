"""A LoRA that anybody may have written cannot keep the program busy, and what it cannot mean is refused."""

import json
import re
import time

import pytest
import torch
from safetensors.torch import save_file

from ltx2_core.errors import CheckpointError, SettingError
from ltx2_core.lora import open_lora
from ltx2_core.lora.patterns import LayerPatterns
from ltx2_core.lora.strengths import parse_blocks, parse_schedule

LAYER = "diffusion_model.transformer_blocks.1.attn1.to_q"
NAMES = [
    "base_model.model.transformer_blocks.0.attn1.to_q",
    "transformer_blocks.11.attn1.to_out.0",
    "transformer.transformer_blocks.1.ff.net.2",
    "transformer_blocks.1.audio_ff.net.0.proj",
    "x",
]
PATTERNS = [
    "attn1.to_q",
    "to_q",
    r"attn1\.to_out\.0",
    r"\d+\.ff\.net\.2",
    r"transformer_blocks\.(0|1[0-9])\.attn1.*",
    r"transformer_blocks\.[01]\..*",
    r"^transformer_blocks\.11.*",
    r".*(to_q|to_k)$",
    r"blocks\.\d{1,2}\.attn1\.to_(?:q|out\.0)",
    r"[^.]+\.proj",
    r".+?net\.\d",
    "q",
    "ff.net",
    "[a-z]",
    r"(audio_)?ff\.net\.\w+(\.proj)?",
    r"transformer_blocks\.\d{2}\..*",
    r"transformer_blocks\.\d{1,}\.[a-z0-9]{,5}\.to_\w{1,3}",
    "nothing",
]
HANGS = [
    r"([a-z_0-9.]+)+X",
    r"(a*)*b",
    r"(.*.*.*.*.*)X",
    r"((((.*)*)*)*)*X",
    r"(((((^{99}){99}){99}){99}){99}){99}X",
    r"(x+x+)+y",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_fits_the_layers_that_it_fits_in_peft(name, pattern):
    theirs = re.match(rf"(.*\.)?({pattern})$", name) is not None
    assert LayerPatterns({pattern: 5}, "alpha_pattern").find(name, None) == (5 if theirs else None)


def test_the_first_pattern_that_fits_counts():
    patterns = LayerPatterns({"to_k": 1, r".*attn1\..*": 2, "to_q": 3}, "alpha_pattern")
    assert patterns.find("blocks.0.attn1.to_q", 9) == 2 and patterns.find("blocks.0.ff", 9) == 9


@pytest.mark.parametrize("pattern", HANGS)
@pytest.mark.sample(1)
def test_no_pattern_takes_for_ever(pattern):
    start = time.monotonic()
    try:
        patterns = LayerPatterns({pattern: 5}, "alpha_pattern of x.safetensors")
        found = {patterns.find("transformer_blocks.0.attn1.to_q." + "a" * 60, None) for _ in range(300)}
        assert found == {None}
    except CheckpointError as error:
        assert "alpha_pattern of x.safetensors takes too long" in str(error)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "pattern", ["(?=a)", r"\1", "(", ")", "[a", "*", "a**", "a{2", "a{x}", "(?i)a", r"\A", "x" * 501 + "*"]
)
def test_a_pattern_that_is_not_understood_is_named(pattern):
    with pytest.raises(CheckpointError, match="names layers by"):
        LayerPatterns({pattern: 5}, "alpha_pattern of x.safetensors")


def lora(folder, layer: str = LAYER, **metadata: str):
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 128), f"{layer}.lora_B.weight": torch.ones(128, 2)}
    save_file(tensors, folder / "x.safetensors", metadata or None)
    return folder / "x.safetensors"


def settings(**values: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": 4} | values)}


def test_an_alpha_of_a_pattern_sets_the_scale(tmp_path):
    opened = open_lora(lora(tmp_path, **settings(alpha_pattern={r"transformer_blocks\.1\..*": 6})))
    assert [delta.scale for _, _, delta in opened.layers] == [3.0]


@pytest.mark.parametrize(
    "patterns", [{"to_q": float("nan")}, {"to_q": "8"}, {"to_q": 1e300}, {"to_q": True}, ["to_q"], 5]
)
def test_alphas_of_patterns_are_numbers(tmp_path, patterns):
    with pytest.raises(CheckpointError, match=r"settings of x\.safetensors\.alpha_pattern .* was expected"):
        open_lora(lora(tmp_path, **settings(alpha_pattern=patterns)))


def test_there_are_not_more_patterns_than_layers_could_need(tmp_path):
    with pytest.raises(CheckpointError, match="more than 200 patterns"):
        open_lora(lora(tmp_path, **settings(alpha_pattern={f"a.*{number}": 1 for number in range(201)})))
    with pytest.raises(CheckpointError, match="20,000 patterns; at most 10,000"):
        open_lora(lora(tmp_path, **settings(alpha_pattern={f"a{number}": 1 for number in range(20_000)})))


def test_a_name_without_an_end_is_known_at_once_to_be_unknown(tmp_path):
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"is not a LoRA|holds no whole change of a layer") as error:
        open_lora(lora(tmp_path, "lora." * 100_000))
    assert len(str(error.value)) < 1000  # whatever the file calls its tensors
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("text", ["0-999999999999", "999999999999", "0-3, 4", "0-4"])
def test_a_range_of_blocks_ends_with_the_model_before_it_is_written_out(text):
    with pytest.raises(SettingError, match="this model has 4 blocks"):
        parse_blocks(text, 4)


def test_a_range_of_blocks_goes_up():
    with pytest.raises(SettingError, match="write the smaller number first"):
        parse_blocks("3-1", 4)


def test_a_number_of_five_thousand_digits_is_no_block():
    with pytest.raises(SettingError, match="write numbers and ranges"):
        parse_blocks("1" * 5000, 4)


@pytest.mark.parametrize("text", ["1: nan", "nan: 1", "inf: 1", "1: 11", "1: 1e300, 0.5: 1"])
def test_a_schedule_has_strengths_that_can_be(text):
    with pytest.raises(SettingError, match="strengths are between -10 and 10"):
        parse_schedule(text)


def test_of_several_adapters_in_one_file_none_acts_in_place_of_the_others(tmp_path):
    """Factors of two were taken together where one lacked a factor."""
    layer = "transformer_blocks.0.attn1.to_q"
    names = [f"{layer}.lora_{factor}.{name}.weight" for factor in "AB" for name in ("default", "style")]
    save_file({name: torch.ones(4, 4) for name in names}, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match=r"two\.safetensors .* adapters: .*A\.default.*A\.style"):
        open_lora(tmp_path / "two.safetensors")
