"""The tiny decoder for drafts: pieces as the whole, found by content, in the plan, and refused where it is another."""

import pytest
import torch
from drafts import SMALL, small_decoder, write_draft
from peak import Peak
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from ltx2_core import generate, tiny
from ltx2_core.checkpoint import build, open_models
from ltx2_core.checkpoint.parts import find_parts
from ltx2_core.errors import CheckpointError, SettingError
from ltx2_core.pipeline.decode_video import DecodeVideo
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.video_vae import DecoderInput, Tiling, TinyDecoder
from ltx2_core.video_vae.tiny_decoder import RELEASED

LATENT = torch.randn(2, 128, 5, 2, 3, generator=torch.Generator().manual_seed(1))


def decoded(decoder: TinyDecoder, frames: int, **more) -> torch.Tensor:
    tiling = Tiling(tile_size=4096, tile_overlap=0, tile_frames=frames, frame_overlap=0)
    with torch.inference_mode():
        return torch.cat(list(decoder.decode(DecoderInput(LATENT, tiling), **more)), dim=2)


@pytest.mark.parametrize("frames", [16, 24, 32])
def test_pieces_are_the_whole(frames):
    whole = decoded(small_decoder(), 40)
    assert whole.shape == (2, 3, 33, 64, 96)
    assert whole.std() > 0.01
    assert_close(decoded(small_decoder(), frames), whole, rtol=0, atol=1e-6)


def test_progress_is_told_and_can_stop_it():
    told = []
    decoded(small_decoder(), 16, on_tile=lambda done, total: told.append((done, total)))
    assert told == [(2, 5), (4, 5), (5, 5)]

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        decoded(small_decoder(), 16, on_tile=stop)


def test_a_frame_depends_on_those_before_it_and_on_none_behind():
    later = LATENT.clone()
    later[:, :, 3] += 1
    with torch.inference_mode():
        one, other = (small_decoder()(each)[0] for each in (LATENT, later))
    assert torch.equal(one[:, :, :24], other[:, :, :24])
    assert not torch.equal(one[:, :, 32:], other[:, :, 32:])


def test_it_is_found_by_content_and_takes_the_place_of_the_decoder(tmp_path):
    file = write_draft(tmp_path / "taeltx2_3.safetensors")
    models = open_models("miniature", video_vae=file)
    assert models.source("video_decoder").file.path == file
    assert models.source("video_encoder").file.path != file
    decoder = build(models, "video_decoder")
    assert isinstance(decoder, TinyDecoder) and decoder.config == SMALL
    with torch.inference_mode():
        assert torch.equal(decoder(LATENT)[0], small_decoder()(LATENT)[0])
    first = open_models([file, *(each.path for each in open_models("miniature").files)])
    assert first.source("video_decoder").file.path == file


def test_nobody_gets_a_draft_who_has_not_asked_for_it(tmp_path):
    file = write_draft(tmp_path / "taeltx2_3.safetensors")
    checkpoint = tiny.write(tmp_path, "2.3")[0]
    models = open_models(checkpoint)
    names = set(models.source("video_decoder").names.values()) | set(models.source("video_encoder").names.values())
    rest = {name: value for name, value in load_file(checkpoint).items() if name not in names}
    save_file(rest, tmp_path / "without.safetensors", models.files[0].metadata)
    assert file not in find_parts([tmp_path / "without.safetensors"], [file])


@pytest.mark.slow
def test_a_clip_is_made_with_it(tmp_path):
    models = open_models("miniature", video_vae=write_draft(tmp_path / "taeltx2_3.safetensors"))
    clip = generate(models, "a red ball bounces once on the left", width=96, height=64, frames=17, steps=1)
    assert torch.as_tensor(clip.frames).shape == (17, 64, 96, 3)


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"decoder.1.weight": torch.zeros(16, 16, 3, 3)}, "for latents of 16 channels, each 32 pixels wide"),
        ({"decoder.22.weight": torch.zeros(3, 8, 3, 3)}, "of 128 channels, each 8 pixels wide.*choose taeltx2_3"),
        ({"decoder.8.weight": torch.zeros(8, 5, 3, 3)}, "decoder.8.weight"),
    ],
)
def test_a_tiny_decoder_of_another_model_is_refused(tmp_path, changed, words):
    models = open_models("miniature", video_vae=write_draft(tmp_path / "other.safetensors", **changed))
    with pytest.raises(CheckpointError, match=words):
        build(models, "video_decoder")


def test_one_that_is_cut_short_is_refused(tmp_path):
    path = write_draft(tmp_path / "short.safetensors")
    state = load_file(path)
    del state["decoder.14.weight"]
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"lacks stages\.1\.conv\.weight|decoder\.14\.weight"):
        build(open_models("miniature", video_vae=path), "video_decoder")


def test_a_latent_of_other_channels_is_refused():
    with pytest.raises(SettingError, match="has 16 channels, the video VAE expects 128"):
        small_decoder().check(torch.zeros(1, 16, 1, 1, 1))


@pytest.mark.slow
def test_the_plan_counts_what_it_takes():
    decoder = TinyDecoder(RELEASED).eval()
    blueprint = Blueprint(
        "tiny", {}, {"video_decoder": {k: v.to("meta") for k, v in decoder.state_dict().items()}}, None
    )
    stage, latent = DecodeVideo((5, 6, 8)), torch.randn(1, 128, 5, 6, 8)
    need = stage.need(blueprint)

    def run() -> None:
        for chunk in decoder.decode(DecoderInput(latent, decoder.usual_tiling)):
            del chunk

    with torch.inference_mode(), Peak() as peak:
        run()
    assert peak.bytes <= need.cost.peak <= 1.15 * peak.bytes
