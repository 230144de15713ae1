"""Wiring that happens every day, and graphs that come from elsewhere: a right result, or a sentence before any work."""

import shutil

import pytest
from pack.clip import Clip, pictures_in, saved
from pack.host import REPOSITORY
from pack.workflow import add, change, node

pytestmark = pytest.mark.comfy


@pytest.fixture
def silent(prompt):
    """The graph with a video that has no sound."""
    change(prompt, LTX2AVSchedule={"steps": 1})
    return add(
        prompt,
        grey=("EmptyImage", {"width": 95, "height": 97, "batch_size": 33, "color": 0x808080}),
        film=("CreateVideo", {"images": ["grey", 0], "fps": 24.0}),
        parts=("GetVideoComponents", {"video": ["film", 0]}),
    )


@pytest.mark.parametrize("kind", ["LTX2AVAudioToVideo", "LTX2AVReferenceAudio"])
def test_the_sound_of_a_silent_video_is_missed_in_a_sentence(client, silent, kind):
    more = {"strength": 1.0} if kind == "LTX2AVReferenceAudio" else {}
    add(silent, given=(kind, {"audio": ["parts", 1], **more}))
    run = client.run(change(silent, LTX2AVSample={"conditions": ["given", 0]}))
    assert "This video has no sound" in run.error and "audio" in run.error
    assert node(silent, "LTX2AVSample") not in run.executed


def test_frames_of_an_odd_size_can_be_saved(server, client, silent):
    """The frames of a video for which sound is made, as the help page says: one column and one line fewer."""
    add(
        silent, given=("LTX2AVVideoToAudio", {"video": ["film", 0]}), whole=("PreviewImage", {"images": ["decoded", 1]})
    )
    decode = node(silent, "LTX2AVDecode")
    silent["whole"]["inputs"]["images"] = [decode, 1]
    change(silent, LTX2AVSample={"conditions": ["given", 0]}, LTX2AVDecode={"images": ["parts", 0]})
    run = client.run(silent)
    assert Clip.of(server, run, node(silent, "SaveVideo")).frames.shape == (33, 96, 94, 3)
    assert "95 x 97" in dict(run.texts)[decode] and "94 x 96" in dict(run.texts)[decode]
    assert run.outputs["whole"]


def test_a_clip_has_the_shape_of_a_video(client, silent):
    silent["grey"]["inputs"].update(width=320, height=160)
    change(silent, LTX2AVEmptyLatent={"video": ["film", 0], "size": "as the picture", "megapixels": "0.1", "frames": 9})
    assert "448 x 224" in dict(client.run(silent).texts)[node(silent, "LTX2AVEmptyLatent")]


def test_one_sound_serves_every_clip_of_a_batch(server, client, prompt):
    """Two pictures and one sound make the two clips of a batch of two."""
    change(prompt, LTX2AVSchedule={"steps": 1})
    decode, latent = node(prompt, "LTX2AVDecode"), [node(prompt, "LTX2AVEmptyLatent"), 0]
    add(
        prompt,
        parts=("LTXVSeparateAVLatent", {"av_latent": latent}),
        twice=("RepeatLatentBatch", {"samples": ["parts", 0], "amount": 2}),
        whole=("LTXVConcatAVLatent", {"video_latent": ["twice", 0], "audio_latent": ["parts", 1]}),
        pictures=("SaveImage", {"images": [decode, 1], "filename_prefix": "two"}),
    )
    change(prompt, LTX2AVSample={"latent": ["whole", 0]})
    unequal = pictures_in(saved(server, client.run(prompt), "pictures"))
    change(prompt, LTX2AVSample={"latent": latent}, LTX2AVEmptyLatent={"batch_size": 2})
    equal = pictures_in(saved(server, client.run(prompt), "pictures"))
    assert len(unequal) == 66 and (unequal == equal).all()


def test_a_decoder_says_that_a_picture_was_cut_and_its_sound_was_not(client, prompt):
    change(prompt, LTX2AVSchedule={"steps": 1})
    sampled, decode = [node(prompt, "LTX2AVSample"), 0], node(prompt, "LTX2AVDecode")
    add(
        prompt,
        parts=("LTXVSeparateAVLatent", {"av_latent": sampled}),
        later=("TrimVideoLatent", {"samples": ["parts", 0], "trim_amount": 2}),
        whole=("LTXVConcatAVLatent", {"video_latent": ["later", 0], "audio_latent": ["parts", 1]}),
    )
    run = client.run(change(prompt, LTX2AVDecode={"latent": ["whole", 0]}))
    assert "The sound of this LATENT lasts 1.36 s, the picture 0.71 s" in dict(run.texts)[decode]


def test_a_clip_too_small_to_decode_is_told_before_sampling(client, prompt):
    change(prompt, LTX2AVSchedule={"steps": 1}, LTX2AVEmptyLatent={"width": 32, "height": 32})
    run, sampler = client.run(prompt), node(prompt, "LTX2AVSample")
    assert "64x64" in run.error, "the decoder of the miniature takes it after all"
    assert "cannot be decoded unless it is enlarged" in dict(run.texts)[sampler]


def test_a_seed_of_64_bits_runs(client, prompt):
    change(prompt, LTX2AVSchedule={"steps": 1}, LTX2AVSample={"seed": 2**64 - 1})
    assert client.run(prompt).end == "execution_success"


def test_a_file_that_another_system_saved_is_found(server, client, prompt):
    (source,) = (REPOSITORY / "ltx2_core" / "mini" / "loras").glob("light-room.safetensors")
    folder = server.base / "models" / "loras" / "sub"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, folder / "mini.safetensors")
    change(prompt, LTX2AVSchedule={"steps": 1})
    model = [node(prompt, "LTX2AVLoadModel"), 0]
    add(prompt, lora=("LTX2AVLoadLora", {"model": model, "lora": "sub\\mini.safetensors", "strength": 1.0}))
    run = client.run(change(prompt, LTX2AVSample={"model": ["lora", 0]}))
    assert run.end == "execution_success", run.error


def test_a_connector_without_a_model_hands_on_prompts_unchanged(server, client, prompt):
    """The clip is the same, because the sampler runs the connectors."""
    change(prompt, LTX2AVSchedule={"steps": 1})
    decode = node(prompt, "LTX2AVDecode")
    add(prompt, pictures=("SaveImage", {"images": [decode, 1], "filename_prefix": "connector"}))
    before = pictures_in(saved(server, client.run(prompt), "pictures"))
    del prompt[node(prompt, "LTX2AVThinkingTokens")]["inputs"]["model"]
    after = pictures_in(saved(server, client.run(prompt), "pictures"))
    assert abs(before.astype(int) - after).max() <= 1


def test_a_decoder_says_that_a_latent_is_still_noisy(client, prompt):
    """Where the sampler was stopped by end_step and nothing finished the clip; not of a whole one."""
    decode, schedule = node(prompt, "LTX2AVDecode"), node(prompt, "LTX2AVSchedule")
    for end, told in ((1, True), (0, False)):
        run = client.run(change(prompt, LTX2AVSample={"end_step": end, "sigmas": [schedule, 0]}))
        assert ("set end_step there to 0" in dict(run.texts).get(decode, "")) == told
