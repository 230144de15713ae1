"""The plan before the run: sizes are those of the released files, and what does not fit is made smaller or refused."""

import gc
import math
import re
from dataclasses import replace
from fractions import Fraction
from weakref import ref

import pytest
import tiny_parts
import torch
from golden import key_list
from planned import REFINING, SAMPLING, SLOW, plan, small
from safetensors.torch import load_file, save_file
from written import rewrite

import ltx2_core as ltx2
from ltx2_core import tiny
from ltx2_core.__main__ import main
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.checkpoint.upscaler import BUILT_IN, open_upscaler
from ltx2_core.errors import CheckpointError, SettingError
from ltx2_core.geometry import ClipShape
from ltx2_core.lora import Strengths, open_lora
from ltx2_core.memory import Room, Store
from ltx2_core.memory.machine import CARDS, GIB, machine_named
from ltx2_core.memory.ram import ram as ram_now
from ltx2_core.pipeline.decode_audio import DecodeMel, Vocode
from ltx2_core.pipeline.decode_video import DecodeVideo
from ltx2_core.pipeline.encode_conditions import EncodeAudio, EncodeVideo
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.pipeline.plan import plan_stages
from ltx2_core.pipeline.refine import MAX_TILE_TOKENS, Refine
from ltx2_core.pipeline.sample import Sample
from ltx2_core.pipeline.stage import LatentSize, NetworkKey, Stage
from ltx2_core.pipeline.stages import stages_of_clip
from ltx2_core.pipeline.upscale import Upscale
from ltx2_core.settings import Resources, SecondStage
from ltx2_core.upscaler import UpscalerConfig
from ltx2_core.video_vae import Tiling


@pytest.mark.parametrize("version, gigabytes", [("2.0", 43.28), ("2.3", 46.15)])
def test_a_release_is_as_large_as_its_file(released, version, gigabytes):
    found = released(version)
    kinds = ("transformer_text", "video_vae", "audio_vae", "vocoder")
    rows = [shape for kind in kinds for shape in key_list(kind, version).values()]
    names = [name for name in COMPONENTS if name != "vocoder"]
    total = found.weights(*names).total + found.weights("vocoder").total // 2  # it computes in float32
    assert total == pytest.approx(2 * sum(map(math.prod, rows)), rel=1e-3)  # statistics are used by two components
    assert total / 1e9 == pytest.approx(gigabytes, abs=0.02)
    assert len(found.weights("transformer").blocks.sizes) == 48
    assert found.weights("text_encoder").total / 1e9 == pytest.approx(23.5, abs=0.1)


def test_fp8_is_as_large_as_the_official_file(released):
    """27.08 GB, of which scales and markers are a few hundred kilobytes."""
    found = released("2.0", "fp8")
    total = found.weights(*COMPONENTS).total - found.weights("vocoder").total // 2
    assert total / 1e9 == pytest.approx(27.08, abs=0.01)
    blocks = found.weights("transformer").blocks.sizes
    assert len(set(blocks[1:43])) == 1 and blocks[0] == blocks[47] > 1.9 * blocks[1]


@pytest.mark.slow
def test_files_are_told_by_their_headers(tiny_blueprint):
    found, models = tiny_blueprint
    for name in models.sources:
        assert found.weights(name).total == Store(ltx2.build(models, name, torch.float32), "cpu").wanted_bytes
    encoder = build_text_encoder(open_text_encoder(models.text_encoder), torch.float32)
    assert found.weights("text_encoder").total == pytest.approx(Store(encoder, "cpu").wanted_bytes, rel=0.05)
    assert len(found.weights("transformer").blocks.sizes) == 2 and len(found.weights("text_encoder").blocks.sizes) == 2


@pytest.mark.slow
def test_fp8_files_are_told_by_their_headers(tiny_blueprint, tmp_path):
    """Half of the matrices in both official spellings of a scale, and one without."""
    _, models = tiny_blueprint
    weights = load_file(models.files[0].path)
    matrices = [
        key for key in weights if "transformer_blocks.1" in key and key.endswith("weight") and weights[key].ndim == 2
    ]
    for number, key in enumerate(matrices):
        weights[key] = weights[key].to(torch.float8_e4m3fn)
        if number:
            weights[key.replace("weight", ("weight_scale", "scale_weight")[number % 2])] = torch.ones(())
    save_file(weights, tmp_path / "fp8.safetensors", models.files[0].metadata)
    models = ltx2.open_models(tmp_path / "fp8.safetensors")
    found = Blueprint.of_files(models, None, dict.fromkeys(models.sources, torch.float32))
    store = Store(ltx2.build(models, "transformer", torch.float32), "cpu")
    assert found.weights("transformer").total == store.wanted_bytes
    shape = ClipShape(64, 64, 9, Fraction(24))
    assert plan(found, shape, machine_named("4090")).fits  # without a text encoder, as far as it goes


def test_small_cards_get_smaller_tiles_and_a_reason(released):
    shape = ClipShape(1920, 1088, 121, Fraction(24))
    roomy, tight = (
        plan(released("2.3", "fp8"), shape, machine_named(card), ram=16 * GIB) for card in ("RTX 5090", "4060")
    )
    frames = DecodeVideo(shape.video_latent)
    assert roomy.fits and roomy.stage(frames).tiling == Tiling()
    assert roomy.notes == ("sampling: fp8 products; inputs are rounded as weights are.",)  # and nothing about tiles
    assert tight.stage(frames).tiling != Tiling() or tight.placement("frames").device_bytes <= tight.room.budget
    less = plan(released("2.3", "fp8"), shape, machine_named("4060"), budget=5 * GIB, ram=3 * GIB)  # none for frames
    assert less.stage(frames).tiling != Tiling() and "more seams" in less.explain() and "more seams" in less.summary()
    (line,) = (line for line in less.summary().splitlines() if line.startswith("sampling: ") and " of the card" in line)
    assert " GB of the card, " in line and " GB of RAM, " in line and "streamed" in line and "8 x " in line
    own = replace(frames, tiling=Tiling(512, 64, 80, 24))
    card = machine_named("4060")
    assert plan_stages([own], released("2.3", "fp8"), Room(card, card.budget)).stage(frames) == own


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_a_card_is_found_by_what_people_and_drivers_call_it(card):
    size = f" {card.memory // GIB}GB"
    whole = card.name if card.name.endswith("GB") else card.name + size
    for name in (card.name, card.name.lower(), f"NVIDIA GeForce {card.name}", whole, whole.replace(" GB", "GB")):
        assert machine_named(name) is card
    assert machine_named("rtx4070tisuper") is CARDS["RTX 4070 Ti SUPER"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Voodoo", "The card Voodoo is not known here; known are RTX 5090, "),
        ("4060 Ti", "For 4060 Ti say which card is meant: RTX 4060 Ti 16 GB or RTX 4060 Ti 8 GB."),
        ("RTX 4090 12GB", "For RTX 4090 12GB say which card is meant: RTX 4090."),
        ("", "The card  is not known here; "),
        ("GB", "The card GB is not known here; "),
    ],
)
def test_a_card_that_is_not_known_is_refused_in_a_sentence(name, sentence):
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}"):
        machine_named(name)


def test_who_has_an_unknown_card_is_told_what_to_do():
    with pytest.raises(SettingError, match=r"B200\. Take the one that is most like it\.$"):
        machine_named("RX 7900 XTX")


def test_what_does_not_fit_is_refused_in_a_sentence(released):
    shape = ClipShape(1920, 1088, 481, Fraction(24))
    found = plan(released("2.3"), shape, machine_named("RTX 4060"), ram=16 * GIB)
    assert not found.fits and found.placement("sampling") is None
    (sentence,) = (each for each in found.refusals if each.startswith("sampling"))
    assert "does not fit 7.0 GB, even when everything is streamed" in sentence and sentence in found.explain()
    frames = int(sentence.partition("About ")[2].split()[0])
    assert plan(released("2.3"), ClipShape(1920, 1088, frames, Fraction(24)), machine_named("4060")).fits
    with pytest.raises(ValueError, match=r"no plan for LTX-2.3 in int3"):
        Blueprint.of_version("2.3", "int3")


@pytest.mark.slow
def test_the_command_line_plans_for_files_and_for_releases(tiny_blueprint, capsys):
    _, models = tiny_blueprint
    files = ["--checkpoint", str(models.files[0].path), "--text-encoder", str(models.text_encoder)]
    size = ["--width", "64", "--height", "64", "--frames", "9"]
    assert main(["plan", *files, *size, "--card", "RTX 4090", "--ram", "32"]) == 0
    said = capsys.readouterr().out
    assert "64 x 64, 9 frames" in said and "30 x" in said and "RTX 4090: at most 24.2 GB" in said
    release = ["--version", "2.3", "--format", "fp8", "--distilled"]
    assert main(["plan", *release, *size, "--card", "4070", "--vram", "8", "--ram", "32"]) == 0
    said = capsys.readouterr().out
    assert "LTX-2.3 in fp8" in said and "8 x" in said and "at most 7.0 GB of the card and 17.2 GB of pinned RAM" in said
    assert main(["plan", "--version", "2.3", "--card", "Voodoo"]) == 2
    assert "not known" in capsys.readouterr().err


def test_only_cards_that_weights_are_streamed_to_are_said_to_have_pinned_ram(released):
    """Those of AMD and Intel take each block from the RAM when its turn comes."""
    clip, card = ClipShape(768, 512, 121, Fraction(24)), replace(machine_named("4060"), link=1e9)
    for machine, kind, may_be in (card, "pinned RAM", "pinned"), (replace(card, overlaps=False), "RAM", "taken"):
        said = plan(released("2.3"), clip, machine, ram=4 * GIB).explain()
        assert f"of the card and 4.3 GB of {kind}\n" in said and f"of RAM may be {may_be}." in said


CARDS_WITH = {8: "RTX 4060", 12: "RTX 4070", 16: "RTX 4080", 24: "RTX 4090"}


@pytest.mark.parametrize("gigabytes", CARDS_WITH)
@pytest.mark.parametrize("width, height", [(1920, 1088), (3840, 2176)])
def test_twenty_seconds_of_1080p_and_4k_are_refined_and_decoded_on_every_card(released, width, height, gigabytes):
    found, machine = released("2.3", "fp8"), machine_named(CARDS_WITH[gigabytes])
    clip = ClipShape(width, height, 481, Fraction(24))
    room, size = Room(machine, machine.budget, 32 * GIB), LatentSize.of_clip(clip)
    refine = Refine(REFINING, size)
    tiles = refine.fit(found, room).tiles
    largest = tiles.largest(size.video)
    assert math.prod(largest) <= MAX_TILE_TOKENS and tiles.count <= 4 * math.prod(size.video) / math.prod(largest)
    half = LatentSize.of_clip(ClipShape(width // 2, height // 2, 481, Fraction(24)))
    windows = replace(half, video=(16, *half.video[1:]), audio=126)  # a first stage of 4K is made in windows, too
    upscale = Upscale(NetworkKey("upscaler"), UpscalerConfig(mid_channels=1024), half.video)
    stages: list[Stage] = []
    for stage in stages_of_clip(found, clip, SAMPLING):
        stages += [replace(stage, size=windows), upscale, refine] if isinstance(stage, Sample) else [stage]
    planned = plan_stages(stages, found, room, clip)
    assert planned.fits, planned.refusals
    assert planned.stage(refine).tiles == tiles
    assert [placement.need.name for placement in planned.placements[-5:]] == [
        "upscaling space by 2",
        "refining",
        "mel",
        "sound",
        "frames",
    ]
    assert all(placement.device_bytes <= machine.budget for placement in planned.placements)


def test_a_second_stage_does_not_read_the_transformer_from_disk_again():
    found, size = small("2.3"), LatentSize.of_clip(ClipShape(64, 64, 9, Fraction(24)))
    nbytes = found.weights("transformer").total
    stages = [Sample(SAMPLING, size), Refine(REFINING, size)]
    for ram, second in ((nbytes, nbytes / 100), (nbytes // 2, nbytes / 200 + nbytes / 20), (0, nbytes / 10)):
        planned = plan_stages(stages, found, Room(SLOW, 10**10, ram))
        assert [each.load for each in planned.placements] == pytest.approx([nbytes / 10, second], rel=1e-3)
        assert planned.seconds == sum(each.load + each.run * each.need.runs for each in planned.placements)
    planned = plan_stages(stages, found, Room(SLOW, 10**10, in_ram=True))
    assert planned.placements[1].load == pytest.approx(nbytes / 100)


def test_less_memory_gives_more_tiles_until_none_are_small_enough(released):
    found, machine = released("2.3", "fp8"), machine_named("4060")
    refine = Refine(REFINING, LatentSize.of_clip(ClipShape(1920, 1088, 241, Fraction(24))))
    budgets = (7 * 10**9, 3 * 10**9, 2 * 10**9)
    counts = [refine.fit(found, Room(machine, budget, GIB)).tiles.count for budget in budgets]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    with pytest.raises(ValueError, match=r"refining does not fit 0\.6 GB, even when everything is streamed"):
        refine.fit(found, Room(machine, 6 * 10**8))


def test_a_plan_limits_others_to_what_its_user_said_and_to_nothing_else(released):
    """It is made of what was free then, and most of the RAM may hold frames, but not be pinned."""
    all_ram = ram_now()[0]
    made = plan(released("2.3"), ClipShape(64, 64, 9, Fraction(24)), machine_named("RTX 4090"), budget=GIB, ram=GIB)
    later = Room(made.machine, 16 * GIB, ram=all_ram // 2, free=all_ram - all_ram // 10)

    def limited(vram: int | None, most: int | None) -> Room:
        limits = made.as_limits(vram, most).room
        return later.within(limits.budget, limits.ram)

    assert limited(None, None) == later
    assert limited(8 * GIB, None) == replace(later, budget=8 * GIB)
    assert limited(None, GIB // 2) == replace(later, ram=GIB // 2, free=GIB // 2)


def test_a_plan_without_limits_leaves_a_processor_all_of_its_ram(released):
    in_ram = Room(machine_named("RTX 4090"), ram_now()[0], in_ram=True)
    limits = plan_stages([], released("2.3"), in_ram).as_limits(None, None).room
    assert in_ram.within(None, limits.ram) == in_ram


LACKING = {
    "video encoder": EncodeVideo((2, 2, 2)),
    "audio encoder": EncodeAudio(5),
    "video decoder": DecodeVideo((2, 2, 2)),
    "audio decoder": DecodeMel(5),
    "vocoder": Vocode(20),
}


@pytest.mark.parametrize("what", LACKING)
def test_a_stage_by_itself_says_what_the_files_lack(tmp_path, what):
    """As on a graph; its networks are measured before they are built."""
    engine = LocalEngine(ltx2.open_models(tiny_parts.write_split(tmp_path)[0]), Resources(device="cpu"))
    for ask in (engine.fit, engine.placement):
        with pytest.raises(CheckpointError, match=f"has no {what}; choose the file that holds it"):
            ask(LACKING[what])


def test_another_text_encoder_in_the_place_of_one_is_planned_anew(tmp_path):
    checkpoint, _, encoder = tiny.write(tmp_path, "2.3")
    models = ltx2.open_models(checkpoint, encoder)

    def planned() -> int:
        return sum(LocalEngine(models, Resources(device="cpu")).blueprint.weights("text_encoder").blocks.sizes)

    before, other = planned(), tmp_path / "other.safetensors"
    rewrite(encoder, other, {"layers": "int8 of the tensor"})
    other.replace(encoder)
    assert planned() < before / 2


def test_what_is_remembered_of_a_model_keeps_no_lora_and_no_upscaler_open(miniature):
    lora, upscaler = open_lora(MINIATURE / "loras" / "golden-ball.safetensors"), open_upscaler(BUILT_IN)
    second, loras = SecondStage((upscaler,)), [(lora, Strengths(0.5))]
    ltx2.generate(
        miniature, "a red ball", width=64, height=64, frames=9, steps=1, second=second, loras=loras, max_vram=1
    )
    held = [ref(lora), ref(upscaler)]
    del lora, upscaler, second, loras
    gc.collect()
    assert [each() for each in held] == [None, None]
