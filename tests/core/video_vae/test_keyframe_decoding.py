"""The diffusion decoder with keyframes beside the clip: who sees whom, where they are, and what tiles make of it."""

import pytest
import torch
from drawn import randn
from formula import fill
from torch.testing import assert_close

from ltx2_core.checkpoint.keys.video_vae import DIFFUSION_DECODER
from ltx2_core.geometry import Keyframes
from ltx2_core.memory.trace import cost
from ltx2_core.memory.twin import twin_of
from ltx2_core.pipeline.engines.shared_tiles import SharedDecoder
from ltx2_core.video_vae import DecoderInput, Denoising, DiffusionDecoder, DiffusionDecoderConfig, Tiling
from ltx2_core.video_vae.diffusion_config import RELEASED
from ltx2_core.video_vae.diffusion_tiles import seen_in, stage_times
from ltx2_core.video_vae.keyframe_attention import Joint, attend_in_frames, attend_jointly, nearest

# Windows that reach less far, so that tiles of a small clip agree with the whole beyond their edges.
SECTION = {
    "_class_name": "CausalDiffusionVAE",
    "model_output_type": "x0",
    "decoder": {
        "in_channels": 8,
        "head_dim": 16,
        "t_emb_dim": 24,
        "stage_channels": [64, 32, 16, 16, 16],
        "stage_depths": [1, 1, 1, 1, 1],
        "stage_kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 1]],
        "timestep_scale_multiplier": 1000.0,
        "default_num_inference_steps": 1,
    },
}
WHOLE = Tiling(4096, 160, 4096, 40)


def tiny() -> DiffusionDecoder:
    network = DiffusionDecoder(DiffusionDecoderConfig.from_json(SECTION)).requires_grad_(False).eval()
    fill(network, lambda name: DIFFUSION_DECODER.official(name).removeprefix("vae.").removeprefix("decoder."))
    return network


def decoded(decoder, latent, keyframes=None, tiling=WHOLE, **denoising):
    chunks = decoder.decode(DecoderInput(latent, tiling, Denoising(**denoising), keyframes))
    return torch.cat(list(chunks), dim=2)


def dense(q: Joint, k: Joint, v: Joint, kernel) -> Joint:
    """The same attention as a matrix, query by query, straight from the rule."""

    def attend(query, place, clip_frames, keyframes):
        scores, values = [], []
        _, row, column = place
        for source, numbers in (("clip", clip_frames), ("keyframes", keyframes)):
            keys, others = getattr(k, source)[0], getattr(v, source)[0]
            for t in numbers:
                for y in range(max(0, row - kernel[1] // 2), min(keys.shape[1], row + kernel[1] // 2 + 1)):
                    for x in range(max(0, column - kernel[2] // 2), min(keys.shape[2], column + kernel[2] // 2 + 1)):
                        scores.append((query * keys[t, y, x]).sum(-1))
                        values.append(others[t, y, x])
        return (torch.stack(scores).softmax(0)[..., None] * torch.stack(values)).sum(0)

    clip, beside, length = torch.empty_like(q.clip), torch.empty_like(q.keyframes), q.clip.shape[1]
    for t, y, x in torch.cartesian_prod(*map(torch.arange, q.clip.shape[1:4])).tolist():
        frames = range(max(0, t - kernel[0] // 2), min(length, t + kernel[0] // 2 + 1))
        near = sorted(range(len(q.times)), key=lambda number: abs(q.times[number] - t))[:2]
        clip[0, t, y, x] = attend(q.clip[0, t, y, x], (t, y, x), frames, near)
    for number, y, x in torch.cartesian_prod(*map(torch.arange, q.keyframes.shape[1:4])).tolist():
        near = sorted(range(length), key=lambda t: abs(q.times[number] - t))[:2]
        beside[0, number, y, x] = attend(q.keyframes[0, number, y, x], (number, y, x), near, [number])
    return Joint(clip, beside, q.times)


@pytest.mark.parametrize(("size", "kernel"), [((4, 3, 11), (3, 3, 5)), ((2, 9, 2), (5, 5, 3)), ((1, 2, 2), (3, 3, 3))])
@pytest.mark.parametrize("times", [(1.5,), (0.0, 1.0, 2.75)])
def test_attention_is_what_the_rule_says(size, kernel, times):
    parts = [
        Joint(randn(1, *size, 2, 4, seed=seed), randn(1, len(times), *size[1:], 2, 4, seed=seed + 3), times)
        for seed in range(3)
    ]
    found, expected = attend_jointly(*parts, kernel), dense(*parts, kernel)
    assert_close(found.clip, expected.clip, atol=2e-6, rtol=1e-5)
    assert_close(found.keyframes, expected.keyframes, atol=2e-6, rtol=1e-5)


def test_clips_of_a_batch_do_not_see_each_other():
    q, k, v = (randn(2, 9, 10, 2, 4), randn(2, 3, 9, 10, 2, 4, seed=2), randn(2, 3, 9, 10, 2, 4, seed=3))
    both = attend_in_frames(q, k, v, (3, 3))
    assert_close(both, torch.cat([attend_in_frames(q[[i]], k[[i]], v[[i]], (3, 3)) for i in range(2)]))


def test_the_nearest_two_are_seen_and_of_equal_ones_the_first():
    assert nearest([3.0, 1.0, 1.0, 0.5]) == [3, 1] and nearest([2.0]) == [0] and nearest([]) == []


def test_a_keyframe_has_its_place_in_the_time_of_every_stage():
    config = DiffusionDecoderConfig.from_json(RELEASED)
    steps = [stage_times(config, stage, (0, 1, 8, 120)) for stage in range(5)]
    assert steps == [
        (0, 0.5625, 1.4375, 15.4375), (0, 0.5625, 1.4375, 15.4375), (0, 0.625, 2.375, 30.375), (0, 0.75, 4.25, 60.25),
        (0, 1, 8, 120),
    ]  # fmt: skip
    assert stage_times(config, 3, (24, 48), origin=20) == (-7.75, 4.25)
    # Frame 8 k is the last of latent k; the mean place of latent k's frames is k.
    assert stage_times(config, 0, range(9, 17)) == tuple((frame + 3.5) / 8 for frame in range(9, 17))


def test_a_tile_sees_the_keyframes_in_it_and_the_nearest_on_each_side():
    frames = (24, 48, 72, 96, 120)
    assert seen_in(frames, range(40, 80)) == [0, 1, 2, 3]
    assert seen_in(frames, range(50, 60)) == [1, 2] and seen_in(frames, range(9)) == [0]
    assert seen_in(frames, range(121, 140)) == [4]


@torch.no_grad()
@pytest.mark.slow
def test_keyframes_change_the_frames_near_them_and_nothing_else_is_told():
    decoder, latent = tiny(), randn(1, 8, 4, 1, 2)
    keyframes = Keyframes(randn(1, 8, 2, 1, 2, seed=2), (8, 24))
    plain, joint = decoded(decoder, latent), decoded(decoder, latent, keyframes)
    assert joint.shape == plain.shape and (joint - plain).abs().max() > 1e-3
    assert torch.equal(decoded(decoder, latent, keyframes, decoder_keyframes=False), plain)
    assert torch.equal(decoded(decoder, latent, keyframes), joint)
    moved = decoded(decoder, latent, Keyframes(keyframes.latent, (8, 16)))
    assert (moved - joint).abs().max() > 1e-3
    assert (decoded(decoder, latent, keyframes, decoder_steps=2) - joint).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.slow
def test_the_mark_is_added_to_keyframes_alone():
    config = DiffusionDecoderConfig.from_json(SECTION, {"keyframe_mark": (8,)})
    marked, plain = DiffusionDecoder(config).requires_grad_(False).eval(), tiny()
    latent, keyframes = randn(1, 8, 3, 1, 1), Keyframes(randn(1, 8, 1, 1, 1, seed=2), (8,))
    marked.load_state_dict(plain.state_dict() | {"keyframe_mark": torch.zeros(8)})
    assert_close(decoded(marked, latent, keyframes), decoded(plain, latent, keyframes), atol=1e-5, rtol=1e-4)
    marked.load_state_dict(plain.state_dict() | {"keyframe_mark": randn(8)})
    assert_close(decoded(marked, latent), decoded(plain, latent), atol=1e-5, rtol=1e-4)
    one, zero = (plain.statistics.denormalize(torch.full((1, 8, 1, 1, 1), value)) for value in (1.0, 0.0))
    change = marked.keyframe_mark[None, :, None, None, None] / (one - zero)
    shifted = Keyframes(keyframes.latent + change, (8,))
    assert_close(decoded(marked, latent, keyframes), decoded(plain, latent, shifted), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.slow
def test_tiles_agree_with_the_whole_beyond_their_edges():
    """Tiles of frames 0 to 62, 23 to 86 and 47 to 104: where two overlap, one of them is near its edge."""
    decoder, latent = tiny(), randn(1, 8, 14, 1, 1)
    frames = tuple(range(8, 105, 8))
    keyframes = Keyframes(randn(1, 8, len(frames), 1, 1, seed=2), frames)
    whole, tiled = decoded(decoder, latent, keyframes), decoded(decoder, latent, keyframes, Tiling(4096, 32, 64, 40))
    assert_close(tiled[:, :, :23], whole[:, :, :23], atol=2e-5, rtol=1e-4)
    assert_close(tiled[:, :, 87:], whole[:, :, 87:], atol=2e-5, rtol=1e-4)
    assert (tiled - whole).abs().max() < 0.05 * whole.std()


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("frames", [(), (16, 40, 64)])
def test_tiles_of_several_devices_are_those_of_one(frames):
    decoder, latent, tiling = tiny(), randn(1, 8, 9, 1, 6), Tiling(96, 32, 48, 24)
    keyframes = Keyframes(randn(1, 8, len(frames), 1, 6, seed=2), frames) if frames else None
    cpu = torch.device("cpu")
    together = SharedDecoder(decoder, cpu, [(cpu, twin_of(decoder)), (cpu, twin_of(decoder))])
    assert decoder.count_tiles(latent, tiling) > 4
    assert torch.equal(decoded(together, latent, keyframes, tiling), decoded(decoder, latent, keyframes, tiling))


@torch.no_grad()
def test_a_small_latent_is_enlarged_with_its_keyframes():
    frames = decoded(tiny(), randn(1, 8, 1, 1, 2), Keyframes(randn(1, 8, 1, 1, 2, seed=2), (0,)))
    assert frames.shape == (1, 3, 1, 32, 64) and frames.isfinite().all()


@pytest.mark.slow
def test_the_work_with_keyframes_is_measured():
    with torch.device("meta"):
        decoder = DiffusionDecoder(DiffusionDecoderConfig.from_json(SECTION))
    latent, keyframes = (torch.empty(1, 8, count, 4, 4, device="meta") for count in (5, 2))
    alone, joint = (
        decoder.work(DecoderInput(latent, WHOLE, keyframes=each)) for each in (None, Keyframes(keyframes, (16, 32)))
    )
    costs = [[cost(part.run) for part in work.parts] for work in (alone, joint)]
    assert joint.kept > alone.kept and all(b.products > a.products for a, b in zip(*costs))
    assert [part.key for part in alone.parts] != [part.key for part in joint.parts]
