"""Latents that are kept: decoded later, gone on from, opened after a restart, and by the host's own nodes."""

import json
import shutil

import numpy as np
import pytest
from pack.client import Prompt, Rejected
from pack.clip import pictures
from pack.workflow import add, change, node, with_pictures
from safetensors import safe_open

from ltx2_core.media.notes import SOURCE_TAG

pytestmark = pytest.mark.comfy


def kept_in(server, name: str) -> str:
    """The only file that was kept under ``name``, as the list of the loader has it."""
    (path,) = (server.output / "takes").glob(f"{name}_*av_latent.safetensors")
    return f"output/takes/{path.name}"


def keep(source: str, name: str) -> tuple[str, dict]:
    return "LTX2AVSaveLatent", {"latent": [source, 0], "filename_prefix": f"takes/{name}"}


def load(file: str) -> tuple[str, dict]:
    return "LTX2AVLoadLatent", {"file": file}


def test_a_kept_latent_decodes_alike_also_after_a_restart(inside, server, client, prompt, tmp_path):
    sampler, decode = node(prompt, "LTX2AVSample"), node(prompt, "LTX2AVDecode")
    with_pictures(change(prompt, LTX2AVSample={"seed": 31}), kept=keep(sampler, "whole"))
    at_once = pictures(server, client.run(prompt))
    file = kept_in(server, "whole")
    with safe_open(server.output / file.removeprefix("output/"), framework="pt") as content:
        tags = json.loads(content.metadata()["tags"])
    assert SOURCE_TAG in tags and json.loads(tags["prompt"])[sampler]["inputs"]["seed"] == 31

    prompt = change(prompt, LTX2AVDecode={"latent": ["loaded", 0]})
    parts = [decode, node(prompt, "LTX2AVLoadModel"), "pictures"]
    later = add({name: prompt[name] for name in parts}, loaded=load(file))
    assert (pictures(server, client.run(later)) == at_once).all()
    assert "loaded" in client.run(later).cached

    for base in (server.base, tmp_path):
        kept = base / "input" / "takes" / "moved_av_latent.safetensors"
        kept.parent.mkdir(parents=True)
        shutil.copy(server.output / file.removeprefix("output/"), kept)
    inside("kept.py", tmp_path)
    assert (np.load(tmp_path / "pictures.npy") == at_once).all()

    kept = server.base / kept.relative_to(tmp_path)
    kept.write_bytes(kept.read_bytes()[:-1])
    change(later, LTX2AVLoadLatent={"file": "input/takes/moved_av_latent.safetensors"})
    assert "is damaged or was changed" in client.run(later).error


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m"])
def test_a_sampler_goes_on_from_a_kept_latent_to_the_bit(server, client, prompt, sampler):
    first = node(prompt, "LTX2AVSample")
    with_pictures(change(prompt, LTX2AVSample={"seed": 32, "sampler": sampler}, LTX2AVSchedule={"steps": 4}))
    whole = pictures(server, client.run(prompt))

    prompt[first]["inputs"]["end_step"] = 2
    saving = prompt.pop("pictures")
    half = client.run(add(prompt, kept=keep(first, sampler)))
    assert half.end == "execution_success", half.error
    del prompt["kept"]
    second = prompt[first]["inputs"] | {"start_step": 2, "end_step": 0, "add_noise": False, "latent": ["loaded", 0]}
    prompt[first]["inputs"] = second
    run = client.run(add(prompt, loaded=load(kept_in(server, sampler))) | {"pictures": saving})
    assert "stopped at noise level" in dict(run.texts)["loaded"]
    assert (pictures(server, run) == whole).all()


def test_names_outside_the_two_folders_are_refused(client, prompt):
    for file in ("output/../secret_av_latent.safetensors", "models/x_av_latent.safetensors", "/etc/passwd"):
        with pytest.raises(Rejected):
            client.queue({"1": {"class_type": "LTX2AVLoadLatent", "inputs": {"file": file}}} | prompt_of_sink())


def prompt_of_sink() -> Prompt:
    return {"2": {"class_type": "LTX2AVSaveLatent", "inputs": {"latent": ["1", 0], "filename_prefix": "takes/x"}}}


def test_the_hosts_own_nodes_keep_our_streams(server, client, prompt):
    """Its Save Latent takes no nested latents: each stream alone goes through a file, and both come together again."""
    sampler = node(prompt, "LTX2AVSample")
    with_pictures(change(prompt, LTX2AVSample={"seed": 33}))
    at_once = pictures(server, client.run(prompt))
    add(prompt, apart=("LTXVSeparateAVLatent", {"av_latent": [sampler, 0]}))
    for number, stream in enumerate(("video", "audio")):
        prompt[stream] = {
            "class_type": "SaveLatent",
            "inputs": {"samples": ["apart", number], "filename_prefix": f"takes/{stream}"},
        }
    assert client.run(prompt).end == "execution_success"
    for stream in ("video", "audio"):
        (path,) = (server.output / "takes").glob(f"{stream}_*.latent")
        (server.base / "input").mkdir(exist_ok=True)
        shutil.copy(path, server.base / "input" / f"{stream}.latent")
        prompt[stream] = {"class_type": "LoadLatent", "inputs": {"latent": f"{stream}.latent"}}
    del prompt["apart"]
    streams = {"video_latent": ["video", 0], "audio_latent": ["audio", 0]}
    add(prompt, both=("LTXVConcatAVLatent", streams))
    change(prompt, LTX2AVDecode={"latent": ["both", 0]})
    assert (pictures(server, client.run(prompt)) == at_once).all()


def test_sizes_stand_in_names_and_files_are_numbered_as_by_the_host(server, client):
    """Also where a slash ends the name, before which the host would number none of them."""
    size = {"width": 64, "height": 96}
    prefix, light = "takes/%width%x%height%/", {"form": "EXR frames", "space": "sRGB linear", "fps": 24.0}
    prompt = add(
        {},
        clip=("LTX2AVEmptyLatent", {**size, "frames": 9, "fps": 24.0}),
        kept=("LTX2AVSaveLatent", {"latent": ["clip", 0], "filename_prefix": prefix}),
        again=("LTX2AVSaveLatent", {"latent": ["kept", 0], "filename_prefix": prefix}),
        frames=("EmptyImage", {**size, "batch_size": 1, "color": 0}),
        graded=("LTX2AVSaveHDR", {"images": ["frames", 0], "filename_prefix": "takes/%width%x%height%", **light}),
    )
    run = client.run(prompt)
    assert run.end == "execution_success", run.error
    made = {path.name[:11] for path in (server.output / "takes").glob("64x96_*")}
    assert made == {"64x96_00001", "64x96_00002", "64x96_00003"}
