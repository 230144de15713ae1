"""A shared file or workflow can do no harm: what it says is only text, and its numbers keep to the widgets' limits."""

import os
import sys
from pathlib import Path

import pytest
import torch
from pack.client import Client, Prompt
from pack.host import serve
from pack.workflow import add, change, node
from safetensors.torch import save_file

pytestmark = pytest.mark.comfy

EVIL = "<img src=x onerror=alert(1)>\x1b[2J\u202e"
LAYER = "diffusion_model.transformer_blocks.1.attn1.to_q"
BROKEN = os.fsdecode(b"caf\xe9.safetensors")  # a name that is not UTF-8


@pytest.fixture(scope="module", autouse=True)
def files(server) -> Path:
    """LoRAs with a tensor that is named like an element of a page, beside others and alone; one of a broken name."""
    folder = server.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)

    def tensors(*layers: str) -> dict[str, torch.Tensor]:
        sides = {"A": torch.ones(2, 128), "B": torch.ones(128, 2) / 100}
        return {f"{layer}.lora_{side}.weight": value.clone() for layer in layers for side, value in sides.items()}

    save_file(tensors(LAYER, EVIL), folder / "shown.safetensors")
    save_file(tensors(EVIL), folder / "refused.safetensors")
    if sys.platform == "linux":
        save_file(tensors(LAYER), folder / "plain.safetensors")
        os.rename(folder / "plain.safetensors", folder / BROKEN)
    return folder


def with_lora(prompt: Prompt, name: str, **inputs: object) -> Prompt:
    change(prompt, LTX2AVSchedule={"steps": 1})
    model = [node(prompt, "LTX2AVLoadModel"), 0]
    add(prompt, lora=("LTX2AVLoadLora", {"model": model, "lora": name, "strength": 1.0} | inputs))
    return change(prompt, LTX2AVSample={"model": ["lora", 0]})


def test_the_name_of_a_tensor_is_only_text_on_the_node(client, prompt):
    run = client.run(with_lora(prompt, "shown.safetensors"))
    text = dict(run.texts)["lora"]
    assert run.end == "execution_success" and "img src=x" in text
    assert not set("<>&\x1b\u202e") & set(text)


def test_the_name_of_a_tensor_is_only_text_in_an_error(client, prompt):
    error = client.run(with_lora(prompt, "refused.safetensors")).error
    assert "img src=x" in error and not set("<>&\x1b\u202e") & set(error)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_of_a_broken_name_ends_its_prompt_with_a_sentence(client, prompt):
    run = client.run(with_lora(prompt, BROKEN), timeout=60)
    assert run.end == "execution_error" and "choose it from the list" in run.error
    assert client.run(with_lora(prompt, "shown.safetensors")).end == "execution_success"


@pytest.mark.parametrize("count", [10**9, 0, -1])
def test_a_count_from_a_link_keeps_to_the_limits_of_its_widget(client: Client, prompt, count):
    add(prompt, count=("PrimitiveInt", {"value": count}))
    error = client.run(change(prompt, LTX2AVEmptyLatent={"batch_size": ["count", 0]})).error
    assert "batch_size" in error and "between 1 and 64" in error


@pytest.mark.parametrize("value", [float("nan"), 1e9, -11])
def test_what_is_no_number_is_refused(client, prompt, value):
    add(prompt, number=("PrimitiveFloat", {"value": value}))
    error = client.run(with_lora(prompt, "shown.safetensors", strength=["number", 0])).error
    assert "strength is" in error and "between -10 and 10" in error


def test_half_a_letter_in_a_prompt_stops_nothing(client, prompt):
    change(
        prompt, LTX2AVSchedule={"steps": 1}, LTX2AVGemmaTextEncode={"prompt": "a red \ud800 ball", "keep_encoded": True}
    )
    assert client.run(prompt).end == "execution_success"


@pytest.mark.slow
def test_an_error_in_letters_that_the_log_lacks_ends_no_more_than_its_prompt(host, tmp_path, monkeypatch):
    """As on Windows, where the log of a server that writes into a file is in the letters of the country."""
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    name = "\u6e2c & \u8a66_av_latent.safetensors"
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / name).write_bytes(b"none")
    graph = add(
        {},
        loaded=("LTX2AVLoadLatent", {"file": f"output/{name}"}),
        saved=("LTX2AVSaveLatent", {"latent": ["loaded", 0], "filename_prefix": "again"}),
    )
    with serve(host, tmp_path) as server:
        client = Client(server.address)
        for _ in range(2):
            assert "\u6e2c" in client.run(graph, timeout=20).error
