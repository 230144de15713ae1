"""Several clips at once: each is sampled as it is by itself, whatever is given for it and however it is guided."""

from fractions import Fraction

import pytest
import torch
from direct import sample
from planned import seeded, small

from ltx2_core.conditioning import Inpaint, Keyframe, ReferenceAudioTokens, ReferenceVideoTokens
from ltx2_core.errors import SettingError
from ltx2_core.latents import AVLatent
from ltx2_core.sampling import Guidance, Tiles
from ltx2_core.text import Contexts

SIZE, LENGTH, EACH = (3, 4, 4), 18, slice(None)
GUIDED = Guidance(3, 2, 1.5, (1,), 0.7, apg_parallel=0.5, apg_limit=5, nag_scale=4, identity_scale=2)
HOW = {
    "all guidance": {"video": GUIDED, "audio": GUIDED},
    "one batch": {"video": Guidance(3, cfg_star=True), "audio": Guidance(7, rescale=1), "batched_passes": True},
    "skipped steps": {"video": Guidance(3, skip_steps=1), "audio": Guidance(7, 3, skip_steps=2)},
    "CFG++": {"sampler": "euler_cfg_pp"},
    "tiles": {"tiles": Tiles((1, 1, 2), (0, 0, 2), local=True)},
}  # with nothing that draws noise, of which clips at once have their own


@pytest.fixture(scope="module")
def network():
    return seeded(small("2.3", 2))


def made(network, rows: slice, **how) -> AVLatent:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int, of=torch.randn) -> torch.Tensor:
        return of(2, *shape, generator=generator)[rows]

    latent = AVLatent(draw(128, *SIZE), draw(8, LENGTH, 16))
    contexts, negative = (Contexts(draw(8, 128), draw(8, 64)) for _ in range(2))
    items = [
        Inpaint("video", draw(1, *SIZE, of=torch.rand).round()),
        Inpaint("audio", draw(1, LENGTH, 1, of=torch.rand), strength=0.8),
        Keyframe(draw(128, 1, *SIZE[1:]), 16),
        ReferenceVideoTokens(draw(128, 3, 2, 2), downscale=2, attention=0.4),
        ReferenceAudioTokens(draw(8, 5, 16)),
    ]
    told = {"fps": Fraction(24), "sigmas": [0.8, 0.6, 0.3, 0.0], "add_noise": False}
    return sample(network, latent, contexts=contexts, negative=negative, items=items, **told, **how)


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_each_of_several_clips_is_sampled_as_by_itself(network, how):
    both = made(network, EACH, **how).streams()
    assert all(not torch.allclose(x[0], x[1], atol=0.1) for x in both.values())
    for number in range(2):
        for name, alone in made(network, slice(number, number + 1), **how).streams().items():
            assert (both[name][[number]] - alone).norm() < 1e-5 * alone.norm()


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_clip_whose_stream_is_kept_may_be_beside_one_whose_is_made(network, stream):
    """Without guidance, which treats the two differently."""

    def made(rows: slice, **how) -> AVLatent:
        generator = torch.Generator().manual_seed(1)
        video, audio, text = (
            torch.randn(2, *shape, generator=generator)[rows] for shape in ((128, *SIZE), (8, LENGTH, 16), (8, 192))
        )
        mask = torch.tensor([0.0, 1.0])[rows].view(-1, 1, *[1] * (3 if stream == "video" else 2))
        contexts = Contexts(text[..., :128], text[..., 128:])
        told = {"fps": Fraction(24), "sigmas": [0.8, 0.6, 0.3, 0.0], "add_noise": False, "negative": contexts}
        items = [Inpaint(stream, mask.expand(-1, -1, *(SIZE if stream == "video" else (LENGTH, 1))))]
        return sample(network, AVLatent(video, audio), contexts=contexts, items=items, **told, **how)

    both = made(EACH).streams()
    for number in range(2):
        for name, alone in made(slice(number, number + 1)).streams().items():
            assert (both[name][[number]] - alone).norm() < 1e-5 * alone.norm()
    for how in ({"video": Guidance(3)}, {"audio": Guidance(nag_scale=4)}, {"sampler": "euler_cfg_pp"}):
        with pytest.raises(SettingError, match=r"keeps its whole .* and another makes it"):
            made(EACH, **how)
        made(slice(0, 1), **how)
