"""Tiles of a clip: where they lie, that they add up to the whole, what they see and hear, and what they cost."""

from dataclasses import replace
from fractions import Fraction
from math import prod

import pytest
import torch
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core import latents
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.checkpoint.upscaler import BUILT_IN, build_upscaler, open_upscaler, video_statistics
from ltx2_core.checkpoint.versions import VERSIONS
from ltx2_core.conditioning import Frozen, Keyframe, ReferenceAudioTokens, ReferenceVideoTokens, apply_conditions
from ltx2_core.conditioning.characters import KeyframeBefore
from ltx2_core.health import Seams
from ltx2_core.latents import AVLatent
from ltx2_core.memory.trace import cost
from ltx2_core.pipeline.decode_video import decode_video
from ltx2_core.pipeline.upscale import upscale
from ltx2_core.sampling import SAMPLERS, Denoiser, Guidance
from ltx2_core.sampling.recipes import RECIPES
from ltx2_core.sampling.tiles import TiledNetwork, Tiles, TileSettings, count_runs, one_by_one, split_tiles
from ltx2_core.text import Contexts, connect, encode_prompts
from ltx2_core.transformer import UNPERTURBED, Pass, StreamInput, Transformer, TransformerConfig
from ltx2_core.video_vae import DecoderInput

FPS = Fraction(24)
SIZE = (5, 7, 9)
TILES = Tiles((2, 2, 3), (2, 3, 2))
CONTEXTS = Contexts(torch.ones(1, 2, 8), torch.ones(1, 2, 8))


def latent(size=SIZE, length=16, channels=128, seed=0) -> AVLatent:
    generator = torch.Generator().manual_seed(seed)
    return AVLatent(
        torch.randn(1, channels, *size, generator=generator), torch.randn(1, 8, length, 16, generator=generator)
    )


class Local:
    """Answers from each token and its place alone; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def sweep(self, passes, between_blocks=None):
        self.asked.append(passes)
        return [tuple(stream and self._velocity(stream) for stream in (each.video, each.audio)) for each in passes]

    def _velocity(self, stream: StreamInput) -> torch.Tensor:
        place = (stream.positions.mean(-1) * torch.tensor([3.0, 0.01, 0.02])[: stream.positions.shape[1], None]).sum(1)
        return (stream.tokens * 0.5 + place.sin()[..., None]).tanh()


class Everywhere(Local):
    """Answers with the mean of all that it sees."""

    def _velocity(self, stream):
        return stream.tokens.mean(1, keepdim=True).expand_as(stream.tokens)


def denoiser(network, state, **changes) -> Denoiser:
    return Denoiser(network, state, **({"contexts": CONTEXTS, "negative": CONTEXTS} | changes))


def sampled(network, state, sampler="euler", sigmas=(0.909375, 0.725, 0.421875, 0.0), **changes) -> AVLatent:
    noise = latents.Noise(7)(state.map(lambda stream: stream.latent))
    start = state.map(lambda stream, x: stream.noised(x, sigmas[0]), noise)
    *_, last = SAMPLERS[sampler](denoiser(network, state, **changes), start, list(sigmas), latents.Noise(8))
    return state.map(lambda stream, x: stream.unpacked(x), last.latent)


# Where they lie


def test_tiles_of_the_spec():
    spans = Tiles((3, 1, 1), (2, 0, 0)).spans((31, 4, 4))
    assert [[(span.start, span.stop) for span in axis] for axis in spans] == [
        [(0, 12), (10, 22), (20, 31)],
        *[[(0, 4)]] * 2,
    ]


def test_tiles_fade_in_a_line_however_much_they_overlap():
    state = apply_conditions(AVLatent(torch.zeros(1, 128, 6, 1, 1), None), FPS)
    first, second = split_tiles(state, Tiles((2, 1, 1), (4, 0, 0)))
    assert_close(second.weight[:, 0], torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]))
    assert_close(first.weight, second.weight.flip(0))


@pytest.mark.parametrize("count, overlap", [(1, 4), (2, 0), (2, 1), (3, 2), (3, 20), (7, 4)])
def test_tiles_cover_an_axis_evenly_and_their_weights_sum_to_one(count, overlap):
    tiles = Tiles((count, 1, 1), (overlap, 0, 0))
    for length in range(count, 30):
        spans = tiles.spans((length, 1, 1))[0]
        sizes = {span.stop - span.start for span in spans}
        assert len(spans) == count and (spans[0].start, spans[-1].stop) == (0, length)
        assert max(sizes) - min(sizes) <= 1
        assert all(a.start < b.start <= a.stop < b.stop for a, b in zip(spans, spans[1:]))
        total = torch.zeros(1, length, 1)
        for tile in split_tiles(apply_conditions(AVLatent(torch.zeros(1, 128, length, 1, 1), None), FPS), tiles):
            tile.add(torch.ones(1, len(tile.video), 1), total)
        assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("size", [(16, 34, 60), (61, 34, 60), (61, 68, 120), (120, 17, 30), (1, 68, 120)])
@pytest.mark.parametrize("most", [2000, 16_000, 64_000])
def test_as_few_tiles_as_fit(size, most):
    tiles = Tiles((1, 1, 1)).within(size, most)
    assert prod(tiles.largest(size)) <= most
    assert prod(tiles.counts) == 1 or prod(tiles.counts) <= 6 * prod(size) / most
    _, height, width = (max(span.stop - span.start for span in axis) for axis in tiles.spans(size))
    assert tiles.counts[0] == 1 or max(height, width) <= 16


def test_tiles_that_cannot_be():
    with pytest.raises(ValueError, match=r"A latent of \(2, 4, 4\) cells .* cannot be cut into \(3, 1, 1\) tiles"):
        Tiles((3, 1, 1)).spans((2, 4, 4))
    with pytest.raises(ValueError, match="cannot be cut into"):
        Tiles((1, 1, 1)).within((2, 4, 4), 0)
    with pytest.raises(ValueError, match="at least 1 tile"):
        Tiles((0, 1, 1))
    with pytest.raises(ValueError, match="at least 0 cells"):
        Tiles((1, 1, 1), (0, -1, 0))
    with pytest.raises(ValueError, match="no video stream; sound is not made in tiles"):
        TiledNetwork(Local(), apply_conditions(AVLatent(None, latent().audio), FPS), TILES)


def test_settings_of_tiles():
    assert TileSettings().chosen() is None and TileSettings().whole.overlap == (4, 4, 4)
    one_set = TileSettings(columns=3, overlap=64, frame_overlap=16, positions="local")
    assert one_set.chosen() == Tiles((1, 1, 3), (2, 2, 2), local=True)
    assert TileSettings(1, 1, 1).chosen() == Tiles((1, 1, 1)) and not TileSettings(mode="one by one").together


def test_seams_in_pixels():
    assert Tiles((2, 1, 2), (1, 0, 2)).seams((5, 2, 8)) == ([9, 17], [], [96, 160])


# That they add up to the whole


@pytest.mark.parametrize("local", [False, True])
def test_one_tile_is_no_tile(local):
    state = apply_conditions(latent(), FPS, [Keyframe(latent((1, 7, 9)).video, 8)])
    network = Local()
    passes = [Pass(*denoiser(network, state)._inputs(state.map(lambda s: s.latent), 0.5, {}), UNPERTURBED)]
    TiledNetwork(network, state, Tiles((1, 1, 1), local=local)).sweep(passes)
    assert network.asked == [passes]
    tiled = sampled(TiledNetwork(network, state, Tiles((1, 1, 1), local=local)), state)
    whole = sampled(network, state)
    assert torch.equal(tiled.video, whole.video) and torch.equal(tiled.audio, whole.audio)


GUIDED = {"video": Guidance(3, 3, rescale=0.7), "audio": Guidance(7, 3, rescale=0.7, skip_steps=1, identity_scale=3)}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", [{}, GUIDED, GUIDED | {"batched": True}], ids=["plain", "guided", "batched"])
@pytest.mark.sample(6)
def test_tiles_of_a_local_network_are_the_whole(sampler, guidance):
    state = apply_conditions(
        latent(),
        FPS,
        [
            Keyframe(latent((1, 7, 9), seed=1).video, 0, strength=0.8),
            Keyframe(latent((1, 7, 9), seed=2).video, 16, strength=0.5),
            ReferenceVideoTokens(latent((5, 7, 9), seed=3).video, attention=0.5),
            ReferenceAudioTokens(latent(length=3, seed=4).audio),
        ],
    )
    tiled = sampled(TiledNetwork(Local(), state, TILES), state, sampler, **guidance)
    whole = sampled(Local(), state, sampler, **guidance)
    assert_close(tiled.video, whole.video, atol=1e-5, rtol=1e-5)
    assert_close(tiled.audio, whole.audio, atol=1e-5, rtol=1e-5)


def test_tiles_one_by_one_of_a_local_network_are_the_whole():
    state = apply_conditions(
        latent(), FPS, [Frozen("audio"), Keyframe(latent((1, 7, 9), seed=2).video, 16, strength=0.5)]
    )
    noise = latents.Noise(7)(state.map(lambda stream: stream.latent))

    def run(state, noise):
        start = state.map(lambda stream, x: stream.noised(x, 0.9), noise)
        *_, last = SAMPLERS["euler"](denoiser(Local(), state), start, [0.9, 0.4, 0.0])
        return last.latent

    whole = run(state, noise)
    for tiles in (TILES, Tiles((1, 1, 1))):
        parts = one_by_one(run, state, noise, tiles)
        assert_close(parts.video[:, : state.video.count], whole.video[:, : state.video.count], atol=1e-5, rtol=1e-5)
        assert torch.equal(parts.audio, whole.audio)


# What they see and hear


def test_sound_follows_from_the_whole_picture_and_from_no_tile():
    class Listening(Local):
        """The sound is the mean of the picture."""

        def sweep(self, passes, between_blocks=None):
            self.asked.append(passes)
            return [(each.video.tokens, each.video.tokens.mean().expand_as(each.audio.tokens)) for each in passes]

    network, state = Listening(), apply_conditions(latent(), FPS)
    tiled = TiledNetwork(network, state, TILES)
    inputs = denoiser(network, state)._inputs(state.map(lambda stream: stream.latent), 0.5, {})
    ((_, sound),) = tiled.sweep([Pass(*inputs, UNPERTURBED)])
    *tiles, ((whole),) = network.asked
    largest = max(each.video.tokens.shape[1] for (each,) in tiles)
    assert len(tiles) == 12 and whole.video.tokens.shape[1] <= largest
    assert_close(sound, whole.video.tokens.mean().expand_as(sound))
    assert_close(whole.video.tokens, state.video.unpacked(inputs[0].tokens)[:, :, :, ::2, ::2].flatten(2).mT)
    assert all(each.audio is inputs[1] for (each,) in network.asked)


def test_sound_that_is_held_needs_no_view_of_the_whole():
    network, state = Local(), apply_conditions(latent(), FPS, [Frozen("audio")])
    refined = sampled(TiledNetwork(network, state, TILES), state, sigmas=(0.9, 0.0))
    assert len(network.asked) == 12
    assert torch.equal(refined.audio, latent().audio)


def test_one_by_one_the_sound_comes_first_and_is_held():
    state, heard = apply_conditions(latent(), FPS), []

    def run(state, noise):
        heard.append(state.audio.is_frozen)
        return AVLatent(state.video.latent, state.audio.latent + 1)

    noise = state.map(lambda stream: stream.latent)
    result = one_by_one(run, state, noise, TILES)
    assert heard == [False] + [True] * 12 and count_runs(state, TILES) == len(heard)
    assert count_runs(state, Tiles((1, 1, 1))) == 1
    assert_close(result.audio, state.audio.latent + 1)


def test_tiles_know_where_they_are():
    state = apply_conditions(latent(), FPS)
    _, second, *_ = split_tiles(state, Tiles((1, 1, 3), (0, 0, 2)))
    places = second.state(state).video.positions[0, :, :, 0]
    assert places[:, 0].tolist() == [0, 0, 96] and second.audio is None


def test_local_tiles_are_clips_by_themselves():
    state = apply_conditions(latent(length=40), FPS, [ReferenceAudioTokens(latent(length=3, seed=4).audio)])
    tile = split_tiles(state, Tiles((2, 1, 2), (0, 0, 0), local=True))[-1]  # cells 3 and 4 in time, frames 17 to 32
    part = tile.state(state)
    assert tile.size == (2, 7, 4) and part.video.shape == (128, 2, 7, 4)
    assert part.video.positions[0, :, :, 0].amin(1).tolist() == [0, 0, 0]
    assert part.video.positions[0, :, -1, 1].tolist() == pytest.approx([16 / 24, 7 * 32, 4 * 32])
    own = part.audio.positions[0, 0, : part.audio.count]
    assert own[0, 0] <= 0 < own[0, 1] and own[-1, 0] < 16 / 24 <= own[-1, 1]
    assert torch.equal(part.audio.positions[:, :, part.audio.count :], state.audio.positions[:, :, 40:])


def test_a_local_tile_sees_the_part_of_a_face_before_the_clip_where_it_has_its_own():
    """In space as officially (modality_tiling.py): all positions from the origin of the tile on."""
    face = torch.randn(1, 128, 1, *SIZE[1:])
    state = apply_conditions(latent(), FPS, [KeyframeBefore(face, -8)])
    tile = split_tiles(state, Tiles((2, 1, 2), (0, 0, 0), local=True))[-1]  # columns 5 to 8
    places = tile.state(state).video.positions[0]
    assert places[2, -9:, 0].tolist() == [32.0 * column - 160 for column in range(9)]
    assert places[0, -1].tolist() == pytest.approx([-8 / 24, -7 / 24])


def test_tiles_alone_begin_with_one_frame_and_have_noise_of_their_own():
    """As a clip of the size of the tile with the same part of the reference, officially in the HDR pipeline."""
    video, reference = latent(length=40).video, torch.randn(1, 128, *SIZE)
    state = apply_conditions(AVLatent(video, None), FPS, [ReferenceVideoTokens(reference)])
    tiles, drawn = Tiles((2, 1, 2), (0, 0, 0), local=True, alone=True), []

    def draw(part, number):
        drawn.append((part, number))
        return part.map(lambda each: each.latent + number)

    zeros = state.map(lambda each: torch.zeros_like(each.latent))
    made = one_by_one(lambda part, noise: noise, state, zeros, tiles, draw).video
    assert [number for _, number in drawn] == [0, 1, 2, 3]
    for (part, number), (start, stop, left, right) in zip((drawn[0], drawn[-1]), ((0, 3, 0, 5), (3, 5, 5, 9))):
        own = video[:, :, start:stop, :, left:right]
        assert_close(state.video.unpacked(made)[:, :, start:stop, :, left:right], own + number)
        here = [ReferenceVideoTokens(reference[:, :, start:stop, :, left:right])]
        clip = apply_conditions(AVLatent(own, None), FPS, here).video
        assert_close(part.video.positions, clip.positions)
        assert torch.equal(part.video.keyframes, clip.keyframes) and torch.equal(part.video.clean, clip.clean)
    with pytest.raises(ValueError, match="noise of their own, so they cannot be made together"):
        TileSettings(positions="alone")


def test_a_pass_without_the_reference_sound_is_told_of_no_reference_in_any_tile():
    voice = ReferenceAudioTokens(latent(length=3, seed=4).audio)
    state, network = apply_conditions(latent(length=40), FPS, [voice]), Local()
    tiled = TiledNetwork(network, state, Tiles((2, 1, 2), (0, 0, 0), local=True))
    sampled(tiled, state, audio=Guidance(identity_scale=3), sigmas=(0.9, 0.0))
    assert [len(each) for each in network.asked] == 5 * [2]
    for cond, unreferenced in network.asked:
        assert torch.equal(unreferenced.audio.tokens, cond.audio.tokens[:, :-3])


@pytest.mark.parametrize("local", [False, True])
def test_a_step_in_tiles_is_told_what_a_run_of_each_tile_is(local):
    """Tiles are picked of the inputs of each step, or of the clip before it is sampled."""
    given = [Keyframe(latent((1, 7, 9)).video, 16, strength=0.5), ReferenceVideoTokens(latent().video, attention=0.5)]
    state, tiles, network = apply_conditions(latent(), FPS, given), replace(TILES, local=local), Local()
    noisy = state.map(lambda stream: stream.latent)
    denoiser(TiledNetwork(network, state, tiles), state)(noisy, 0.5)
    for tile, (seen, *_) in zip(split_tiles(state, tiles), network.asked):
        picked, own = tile.state(state), Local()
        denoiser(own, picked)(tile.tokens(noisy), 0.5)
        for found, expected in ((seen.video, own.asked[0][0].video), (seen.audio, own.asked[0][0].audio)):
            for name in ("tokens", "positions", "timesteps", "keyframes", "sigma", "context"):
                assert_close(getattr(found, name), getattr(expected, name), atol=0, rtol=0)
            if found.visibility is not None or expected.visibility is not None:
                assert torch.equal(found.visibility.group, expected.visibility.group)
                assert torch.equal(found.visibility.weight, expected.visibility.weight)
            assert found.levels is None or torch.equal(found.levels.index, expected.levels.index)


def test_a_tile_has_the_references_that_it_touches():
    state = apply_conditions(
        latent(), FPS, [Keyframe(latent((1, 7, 9), seed=2).video, 16), ReferenceVideoTokens(latent((5, 7, 9)).video)]
    )
    for tile in split_tiles(state, TILES):
        own = state.video.positions[0, :, tile.video[: prod(tile.size)]]
        start, stop = own[..., 0].amin(1), own[..., 1].amax(1)
        appended = state.video.positions[0, :, tile.video[prod(tile.size) :]]
        assert ((appended[..., 1] > start[:, None]) & (appended[..., 0] < stop[:, None])).all()
        reaches_the_keyframe = start[0] < 17 / 24 and stop[0] > 16 / 24
        assert appended.shape[1] == prod(tile.size) + reaches_the_keyframe * prod(tile.size[1:])


def test_passes_share_what_they_shared():
    network, state = Local(), apply_conditions(latent(), FPS)
    denoise = denoiser(TiledNetwork(network, state, TILES), state, video=Guidance(3, 3), audio=Guidance(3, 3))
    denoise(state.map(lambda stream: stream.latent), 0.5)
    for cond, negative, isolated in network.asked:
        assert cond.video is isolated.video is not negative.video and cond.audio is isolated.audio


# What they look like


@torch.inference_mode()
@pytest.mark.slow
def test_no_seams_show_in_the_miniatures_refined_clip():
    """Of 36 cells in tiles of 16: the measure is that of the clip that was refined as a whole, within 5 %."""
    models = ltx2.open_models("miniature")
    parts = ("text_features", "video_connector", "audio_connector", "transformer", "video_decoder")
    features, video_connector, audio_connector, transformer, decoder = (
        ltx2.build(models, p, torch.float32) for p in parts
    )
    files, prompt = open_text_encoder(models.text_encoder), "a red ball bounces twice on the left"
    encoder = build_text_encoder(files, torch.float32)
    (read,) = encode_prompts(encoder, files.tokenizer(), features, [prompt])
    contexts = connect(read, video_connector, audio_connector)

    def refined(latent, tiles=None):
        state = apply_conditions(latent, FPS)
        network = transformer if tiles is None else TiledNetwork(transformer, state, tiles)
        return sampled(network, state, sigmas=RECIPES["miniature"].refine.sigmas, contexts=contexts).video

    def seen(video):
        watch = Seams(*tiles.seams(video.shape[2:]))
        for chunk in decode_video(decoder, DecoderInput(video)):
            watch.see(chunk)
        return watch

    small = ltx2.generate(models, prompt, steps=8, seed=1).latent
    large, _ = upscale(build_upscaler(open_upscaler(BUILT_IN), torch.float32), small, FPS, video_statistics(models))
    tiles = Tiles((2, 2, 2), (2, 2, 2))
    tiled, whole = seen(refined(large, tiles)), seen(refined(large))
    assert tiled.measure() == pytest.approx(whole.measure(), rel=0.05) and tiled.findings() == []


# What they cost


class Shapes:
    """A block of the released transformer on the meta device; its velocities are 0, and real."""

    def __init__(self):
        config = VERSIONS["2.3"].config["transformer"] | {"num_layers": 1}
        with torch.device("meta"):
            self.transformer = Transformer(TransformerConfig.from_json(config)).bfloat16()

    def sweep(self, passes, between_blocks=None):
        def shape(stream):
            names = ("tokens", "sigma", "positions", "context")
            return replace(stream, **{name: getattr(stream, name).to("meta") for name in names})

        self.transformer.sweep([Pass(shape(each.video), shape(each.audio), each.perturbation) for each in passes])
        return [(torch.zeros_like(each.video.tokens), torch.zeros_like(each.audio.tokens)) for each in passes]


@pytest.mark.parametrize("size, most", [((16, 34, 60), 9000), ((16, 68, 120), 9000), ((16, 68, 120), 36_000)])
@pytest.mark.slow
def test_memory_is_that_of_one_tile_and_the_latents(size, most):
    """5 seconds in 1080p and 4K."""
    contexts = Contexts(torch.zeros(1, 1024, 4096), torch.zeros(1, 1024, 2048))
    network, state = Shapes(), apply_conditions(AVLatent(torch.zeros(1, 128, *size), torch.zeros(1, 8, 126, 16)), FPS)

    def peak(network, state):
        denoise = Denoiser(network, state, contexts, dtype=torch.bfloat16)
        start = state.map(lambda stream: stream.latent)
        return cost(lambda: list(SAMPLERS["euler"](denoise, start, [0.9, 0.0]))).peak

    tiles = Tiles((1, 1, 1)).within(size, most)
    largest = max(split_tiles(state, tiles), key=lambda tile: len(tile.video)).state(state)
    one, latents = peak(network, largest), state.video.latent.nbytes
    assert one > 50_000 * largest.video.count  # bytes
    assert peak(TiledNetwork(network, state, tiles), state) < one + 5 * latents
