"""The host's own loader takes our files' picture decoder; ours decodes again in float32 where fp16 gives no numbers."""

import pytest
from safetensors.torch import load_file, save_file

from ltx2_core import tiny
from ltx2_core.checkpoint.files import TensorFile

pytestmark = pytest.mark.comfy


def test_host_and_pack_decode_alike_and_fp16_that_overflows_is_made_in_float32(inside, tmp_path):
    for version in ("2.0", "2.3"):
        tiny.write(tmp_path, version)
    checkpoint = tmp_path / "ltx-2.3-tiny.safetensors"
    tensors, name = load_file(checkpoint), "vae.decoder.conv_in.conv.weight"
    loud = tensors | {name: tensors[name] * (3e4 / tensors[name].abs().max())}
    save_file(loud, tmp_path / "loud.safetensors", TensorFile(checkpoint).metadata)
    report = inside("vae.py", tmp_path)
    plain = ["float32"] * 3  # transformer, text encoder and VAEs on a CPU; a text encoder computes in no float16
    assert report["computed"] == {
        "fp64_unet": plain,
        "fp16_unet": ["float16", "bfloat16", "float32"],
        "fp8_e4m3fn_unet": ["bfloat16", "bfloat16", "float32"],
        "bf16_text_enc": ["float32", "bfloat16", "float32"],
        "fp16_text_enc": plain,
        "fp16_vae": ["float32", "float32", "float16"],
    }
    assert report["away"].keys() == {"ltx-2.0-tiny.safetensors", "ltx-2.3-tiny.safetensors", "ltx2-mini.safetensors"}
    assert max(report["away"].values()) < 1e-4, report
    assert report["wide"] < 1e-4
    assert any("made once more in float32" in each for each in report["told"]), report
