"""Damaged files of every kind that we read, made by a seeded generator: the same ones on every machine.

A case is a file or a folder, written when it is needed, and the public reader that meets it.
"""

import copy
import json
import math
import random
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import tiny_parts
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint import TensorFile, build, open_models
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.checkpoint.upscaler import build_upscaler, open_upscaler
from ltx2_core.cli.inspect import inspect
from ltx2_core.disk_cache import DiskCache
from ltx2_core.lora import open_lora
from ltx2_core.media import probe, read_audio, read_picture, read_video, write_audio, write_video
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.settings import Resources

# What stands in a field where something else should.
WRONG = (
    None, True, False, -1, 0, 1.5, 7, math.nan, math.inf, -math.inf, 1e30, 10**6, -(10**6), 10**400, "", "x", "3", [],
    {}, [[]], [0], [1.5, "a"], [-1, 3], [10**9] * 3, {"a": 1}, "\u0000", [None], [True],
)  # fmt: skip

SECTIONS = {
    "transformer": ("transformer", "text_features", "video_connector", "audio_connector"),
    "vae": ("video_encoder", "video_decoder"),
    "audio_vae": ("audio_encoder", "audio_decoder"),
    "vocoder": ("vocoder",),
}
FPS = Fraction(24)


@dataclass(frozen=True)
class Case:
    """One damaged thing: ``write`` puts it into an empty folder, ``read`` meets it there."""

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]


@dataclass(frozen=True)
class Whole:
    """Whole files, from which damaged ones are made."""

    checkpoint: Path
    decoder: Path  # of the sound alone
    gemma: Path
    gemma_file: Path
    upscaler: Path
    loras: tuple[Path, ...]
    video: Path
    sound: Path
    picture: Path


def whole_files(folder: Path, checkpoint: Path, gemma: Path, gemma_file: Path) -> Whole:
    """Write small files of the remaining kinds beside a tiny model."""
    generator = torch.Generator().manual_seed(0)
    upscaler = tiny_parts.write_upscaler(folder)
    frames = torch.rand(9, 16, 32, 3, generator=generator)
    sound = torch.rand(2, 8000, generator=generator) - 0.5
    write_video(folder / "film.mp4", [frames], FPS, sound, 24_000)
    write_audio(folder / "sound.wav", sound, 24_000)
    Image.fromarray((frames[0] * 255).byte().numpy()).save(folder / "picture.png")
    loras = tuple(write_lora(folder / f"{form}.safetensors", form) for form in PARTS)
    media = (folder / "film.mp4", folder / "sound.wav", folder / "picture.png")
    decoder = folder / "decoder.safetensors"
    source, tensors = open_models(checkpoint).source("audio_decoder"), load_file(checkpoint)
    save_file({key: tensors[key] for key in source.names.values()}, decoder, source.file.metadata)
    return Whole(checkpoint, decoder, gemma, gemma_file, upscaler, loras, *media)


LAYER = "diffusion_model.transformer_blocks.0.attn1.to_q"
PARTS = {
    "lora": {"lora_A.weight": (4, 32), "lora_B.weight": (32, 4), "alpha": (), "dora_scale": (32, 1)},
    "loha": {"hada_w1_a": (32, 4), "hada_w1_b": (4, 32), "hada_w2_a": (32, 4), "hada_w2_b": (4, 32), "alpha": ()},
    "lokr": {"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8), "alpha": ()},
    "diff": {"diff": (32, 32), "diff_b": (32,)},
    "boft": {"oft_blocks": (2, 8, 4, 4), "rescale": (32, 1), "alpha": ()},
    "oft_R": {"oft_R.weight": (8, 6), "oft_R.scaled_oft": ()},
}
SETTINGS = {"r": 4, "lora_alpha": 8, "use_rslora": False, "alpha_pattern": {"to_q": 4}}


def write_lora(path: Path, form: str, metadata: Mapping[str, str] | None = None, **changes: torch.Tensor) -> Path:
    """Write a LoRA of one layer of the tiny transformer."""
    generator = torch.Generator().manual_seed(1)
    tensors = {f"{LAYER}.{part}": torch.rand(shape, generator=generator) for part, shape in PARTS[form].items()}
    tensors |= {f"{LAYER}.{part}": value for part, value in changes.items()}
    stated = {"lora_adapter_metadata": json.dumps(SETTINGS), "reference_downscale_factor": "2"}
    save_file(tensors, path, stated if metadata is None else dict(metadata))
    return path


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and all bytes behind it."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(path: Path, header: object, body: bytes) -> None:
    """Write a file with this header, or these bytes instead of one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def leaves(value: object, path: tuple = ()) -> Iterator[tuple]:
    """The path of every field in a JSON value, of objects and lists as well as of what they hold."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from leaves(child, (*path, key))


def replaced(value: Any, path: tuple, new: object) -> Any:
    """A copy of a JSON value with another field at ``path``."""
    result = copy.deepcopy(value)
    inside = result
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = new
    return result


def nearly(value: Any, path: tuple) -> tuple:
    """Other numbers than the one at ``path`` of a JSON value, or other lists, of the right kind."""
    for key in path:
        value = value[key]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (2 * value, value + 1, 2, 3)
    return (value[:-1], value + value[:1]) if isinstance(value, list) and value else ()


# What meets a damaged file


def read_checkpoint(path: Path, names: tuple[str, ...]) -> None:
    """Open it, and plan with these components, for which their networks are made without weights."""
    blueprint = LocalEngine(open_models(path), Resources("cpu")).blueprint
    for name in names:
        blueprint.network(name)


def read_decoder(path: Path) -> None:
    """Look at it, and build its audio decoder."""
    inspect(path)
    build(open_models(path), "audio_decoder", torch.float32)


def read_lora(path: Path) -> list[torch.Tensor]:
    """Look at it, and compute every change."""
    inspect(path)
    lora = open_lora(path)
    return [compute(delta) for _, _, delta in lora.layers if delta.shape and delta.fits(shape_of(delta))]


def compute(delta) -> torch.Tensor:
    """Return what a LoRA adds to a matrix of ones; its numbers are looked at first."""
    delta.check_numbers()
    return delta.compute(torch.ones(shape_of(delta)), {part: delta.tensor(part) for part in delta.parts})


def shape_of(delta) -> tuple[int, ...]:
    """The shape of a matrix that it changes, which has 32 of what the file does not say."""
    return tuple(32 if side is None else side for side in delta.shape)


def read_upscaler(path: Path) -> None:
    """Look at it, and build it."""
    inspect(path)
    build_upscaler(open_upscaler(path), torch.float32)


def read_gemma(path: Path, weights: bool = True) -> None:
    """Look at it, split a prompt, and build it."""
    inspect(path)
    files = open_text_encoder(path)
    files.tokenizer()(["a red ball"])
    if weights:
        build_text_encoder(files, torch.float32)


def read_media(path: Path) -> None:
    """Read all that is in it."""
    info = probe(path)
    if info.size is not None:
        for chunk in read_video(path, frames=50):
            assert chunk.isfinite().all()
    if info.has_audio:
        for chunk in read_audio(path, seconds=5):
            assert chunk.isfinite().all()


# Damage


def damaged_bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Bits turned over, a part cut out or off, bytes added, or parts exchanged."""
    kind = rng.choice(["bits", "cut", "hole", "zeros", "more", "start", "swap", "empty"])
    place = int(len(content) * rng.random() ** 3)  # headers are at the beginning
    if kind == "bits":
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 4, 64])):
            damaged[int(len(content) * rng.random() ** 3)] ^= 1 << rng.randrange(8)
        return kind, bytes(damaged)
    size = rng.choice([1, 8, 100, 4000])
    return kind, {
        "cut": content[:place],
        "hole": content[:place] + content[place + size :],
        "zeros": content[:place] + bytes(size) + content[place + size :],
        "more": content + bytes(rng.randrange(256) for _ in range(size)),
        "start": content[size:],
        "swap": content[place:] + content[:place],
        "empty": b"",
    }[kind]


def bytes_cases(path: Path, read: Callable[[Path], object], count: int, rng: random.Random) -> Iterator[Case]:
    """A file with damaged bytes."""
    content = path.read_bytes()
    for number in range(count):
        kind, damaged = damaged_bytes(content, rng)
        target = path.name
        yield Case(
            f"{target} {kind} {number}",
            lambda folder, target=target, damaged=damaged: (folder / target).write_bytes(damaged),
            lambda folder, target=target: read(folder / target),
        )


def header_cases(path: Path, read: Callable[[Path], object], count: int, rng: random.Random) -> Iterator[Case]:
    """A safetensors file whose header says something else of one tensor, or is no such header at all."""
    header, body = header_of(path)
    keys = [key for key in header if key != "__metadata__"]
    odd: dict[str, object] = {
        "list": [1], "number": b"7", "deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "lists": b'{"a":' + b"[" * 9_000,
        "metadata": header | {"__metadata__": [1]}, "metadata number": header | {"__metadata__": {"config": 3}},
        "config list": header | {"__metadata__": header.get("__metadata__", {}) | {"config": "[1]"}},
        "config deep": header | {"__metadata__": {"config": '{"vae":' * 5_000 + "1" + "}" * 5_000}},
        "config text": header | {"__metadata__": {"config": '{"vae": "x", "transformer": [3]}'}},
        "config cut": header | {"__metadata__": {"config": '{"vae": '}},
        "twice": json.dumps(header).encode()[:-1] + b"," + json.dumps({keys[0]: header[keys[0]]}).encode()[1:],
        "nothing": {}, "utf16": json.dumps(header).encode("utf-16"),
        "spaces": json.dumps(header).encode() + b" " * 1000,
    }  # fmt: skip
    changed = [(f"header {name}", new) for name, new in odd.items()]
    fields: dict[str, tuple] = {
        "dtype": ("F32", "I8", "BOOL", "F8_E4M3", "U8", "F4", "BF17", 3, None, ["F32"]),
        "shape": ([], [-1], [0], [2**40, 2**40], [1.5], "x", None, [2**70], [1] * 100, [True]),
        "data_offsets": ([0, 0], [8, 4], [-8, 8], [0, 2**62], [0], [0, 8, 16], "x", None, [0.5, 4], [2**70, 2**71]),
    }
    for number in range(count):
        key, field = rng.choice(keys), rng.choice(list(fields))
        new = rng.choice(fields[field])
        changed.append((f"{field} = {new!r} {number}", header | {key: header[key] | {field: new}}))
    for number in range(count // 4):
        key = rng.choice(keys)
        changed.append((f"entry {number}", header | {key: rng.choice(WRONG[:-4])}))
        changed.append((f"without {number}", {name: each for name, each in header.items() if name != key}))
    for name, new in changed:
        yield Case(
            f"{path.name} {name}",
            lambda folder, new=new: with_header(folder / path.name, new, body),
            lambda folder: read(folder / path.name),
        )


def config_cases(whole: Whole, counts: Mapping[str, int], rng: random.Random) -> Iterator[Case]:
    """A checkpoint in whose config one field is something else; so many cases for each section."""
    models, tensors = open_models(whole.checkpoint), load_file(whole.checkpoint)
    metadata = models.files[0].metadata
    config = json.loads(metadata["config"])
    for section, count in counts.items():
        names = SECTIONS[section]
        kept = {key: tensors[key] for name in names for key in models.source(name).names.values()}
        places = [(section,), *leaves(config[section], (section,))]
        fields = [(place, new) for place in places for new in (*WRONG, *nearly(config, place))]
        for place, new in rng.sample(fields, count):
            stated = metadata | {"config": json.dumps(replaced(config, place, new))}
            yield Case(
                f"config {'.'.join(map(str, place))} = {str(new)[:30]}",
                lambda folder, kept=kept, stated=stated: save_file(kept, folder / "part.safetensors", stated),
                lambda folder, names=names: read_checkpoint(folder / "part.safetensors", names),
            )


def tensor_cases(path: Path, read: Callable[[Path], object], count: int, rng: random.Random) -> Iterator[Case]:
    """A file in which one tensor is NaN somewhere, of another dtype or shape, or not there."""
    tensors, metadata = load_file(path), TensorFile(path).metadata
    for number in range(count):
        key = rng.choice(sorted(tensors))
        value = tensors[key].clone()
        kind = rng.choice(["nan", "inf", "int8", "bool", "int64", "fp8", "fp8 nan", "flat", "cut", "scalar", "none"])
        if kind in ("nan", "inf"):
            if not value.is_floating_point():
                continue
            value.view(-1)[rng.randrange(value.numel())] = float(kind)
        made = {
            "int8": lambda v: v.to(torch.int8), "bool": lambda v: v.bool(), "int64": lambda v: v.to(torch.int64),
            "fp8": lambda v: v.to(torch.float8_e4m3fn), "flat": lambda v: v.reshape(-1),
            "cut": lambda v: v.reshape(-1)[:-1],
            "fp8 nan": lambda v: torch.full_like(v.float(), math.nan).to(torch.float8_e4m3fn),
            "scalar": lambda v: v.reshape(-1)[0].clone(), "none": lambda v: None,
        }.get(kind, lambda v: v)(value)  # fmt: skip
        changed = {name: each for name, each in (tensors | {key: made}).items() if each is not None}
        yield Case(
            f"{path.name} {key} {kind} {number}",
            lambda folder, changed=changed: save_file(changed, folder / path.name, metadata),
            lambda folder: read(folder / path.name),
        )


def lora_cases(loras: tuple[Path, ...], rng: random.Random) -> Iterator[Case]:
    """LoRAs whose settings, scales or numbers are something else."""
    for place in leaves(SETTINGS):
        for new in WRONG:
            stated = {"lora_adapter_metadata": json.dumps(replaced(SETTINGS, place, new))}
            yield Case(
                f"settings {place[-1]} = {str(new)[:30]}",
                lambda folder, stated=stated: write_lora(folder / "lora.safetensors", "loha", stated),
                lambda folder: read_lora(folder / "lora.safetensors"),
            )
    for new in ("", "[1]", "3", '{"r": ', '{"a":' * 3000, "null", "NaN", "\u0000"):
        for name in ("lora_adapter_metadata", "reference_downscale_factor"):
            yield Case(
                f"{name} = {new[:20]}",
                lambda folder, new=new, name=name: write_lora(folder / "lora.safetensors", "lora", {name: new}),
                lambda folder: (
                    read_lora(folder / "lora.safetensors"),
                    open_lora(folder / "lora.safetensors").downscale,
                ),
            )
    for new in ("nan", "inf", "-1", "1e300", "0.2", "x"):
        yield Case(
            f"downscale = {new}",
            lambda folder, new=new: write_lora(folder / "l.safetensors", "lora", {"reference_downscale_factor": new}),
            lambda folder: open_lora(folder / "l.safetensors").downscale,
        )
    for path in loras:
        yield from tensor_cases(path, read_lora, 12, rng)


def gemma_cases(folder: Path, rng: random.Random) -> Iterator[Case]:
    """Folders of Gemma in which config, index, tokenizer or weights are damaged."""

    def copied(to: Path, name: str, content: bytes | None) -> None:
        shutil.copytree(folder, to / "gemma")
        if content is not None:
            (to / "gemma" / name).write_bytes(content)

    config = json.loads((folder / "config.json").read_text())
    contents: list[tuple[str, str, bytes]] = []
    for place in leaves(config):
        for new in rng.sample(WRONG, 3):
            text = json.dumps(replaced(config, place, new)).encode()
            contents.append((f"{'.'.join(map(str, place))} = {str(new)[:30]}", "config.json", text))
    for new in (b"", b"[1]", b"{" * 10_000, b'{"a":' * 10_000, b"\xff\xfe", b"null", b"3"):
        contents += [
            (f"all {new[:9]!r}", name, new)
            for name in ("config.json", "model.safetensors.index.json", "tokenizer.json")
        ]
    for new in ({"weight_map": None}, {"weight_map": []}, {"weight_map": {"a": 3}}, {"weight_map": {"a": "../x"}}, {}):
        contents.append((f"index {new}", "model.safetensors.index.json", json.dumps(new).encode()))
    for name in ("tokenizer.json", "tokenizer.model"):
        content = (folder / name).read_bytes()
        for number in range(14):
            kind, damaged = damaged_bytes(content, rng)
            contents.append((f"{kind} {number}", name, damaged))
    for what, name, content in contents:
        yield Case(
            f"gemma {name} {what}",
            lambda to, name=name, content=content: copied(to, name, content),
            lambda to, name=name: read_gemma(to / "gemma", weights=name == "config.json"),
        )


def cache_cases(rng: random.Random) -> Iterator[Case]:
    """Kept prompts that were damaged, changed, or moved from another place: never found."""
    context = {"video": torch.rand(1, 8, 4).bfloat16(), "audio": torch.rand(1, 8, 2)}

    def find(folder: Path) -> None:
        assert DiskCache(folder, "x").find("a") is None

    def keep(folder: Path, key: str = "a", **tensors: torch.Tensor) -> Path:
        cache = DiskCache(folder, "x")
        cache.keep(key, **tensors or context)
        return cache.path(key)

    def change(folder: Path, seed: int) -> None:
        path = keep(folder)
        content = path.read_bytes()
        damaged = content
        own = random.Random(seed)
        while damaged == content:
            damaged = damaged_bytes(content, own)[1]
        path.write_bytes(damaged)

    def rewrite(folder: Path, **tensors: torch.Tensor) -> None:
        path = keep(folder)
        save_file(tensors, path, TensorFile(path).metadata)

    for number in range(25):
        seed = rng.randrange(2**32)
        yield Case(f"cache bytes {number}", lambda folder, seed=seed: change(folder, seed), find)
    others = {
        "dtype": {"video": context["video"].float(), "audio": context["audio"]},
        "shape": {"video": context["video"].flatten(), "audio": context["audio"]},
        "name": {"picture": context["video"], "audio": context["audio"]},
        "lacking": {"video": context["video"]},
    }
    for name, tensors in others.items():
        yield Case(f"cache {name}", lambda folder, tensors=tensors: rewrite(folder, **tensors), find)
    yield Case("cache moved", lambda folder: keep(folder, "b").rename(DiskCache(folder, "x").path("a")), find)
    yield Case(
        "cache of others",
        lambda folder: shutil.move(_kept_by(folder, "y", context), DiskCache(folder, "x").path("a")),
        find,
    )
    yield Case("cache without a checksum", lambda folder: save_file(context, DiskCache(folder, "x").path("a")), find)


def _kept_by(folder: Path, identity: str, context: dict[str, torch.Tensor]) -> Path:
    cache = DiskCache(folder, identity)
    cache.keep("a", **context)
    path = cache.path("a")
    assert path is not None
    return path


def wave_cases(path: Path) -> Iterator[Case]:
    """A WAV file in which a field of its header is something else."""
    content = path.read_bytes()
    fields = {"codec": 20, "channels": 22, "rate": 24, "bytes a second": 28, "bytes a sample": 32, "bits": 34}
    for name, place in fields.items():
        for new in (0, 1, 99, 0xFFFF):
            damaged = bytearray(content)
            struct.pack_into("<H", damaged, place, new)
            yield Case(
                f"wave {name} = {new}",
                lambda folder, damaged=bytes(damaged): (folder / "x.wav").write_bytes(damaged),
                lambda folder: read_media(folder / "x.wav"),
            )


def checkpoint_cases(whole: Whole, rng: random.Random) -> Iterator[Case]:
    """A checkpoint with other bytes, another header, other tensors."""
    yield from bytes_cases(whole.decoder, read_decoder, 16, rng)
    yield from header_cases(whole.decoder, read_decoder, 24, rng)
    yield from tensor_cases(whole.decoder, read_decoder, 16, rng)


def upscaler_cases(whole: Whole, rng: random.Random) -> Iterator[Case]:
    """An upscaler with other bytes, another header, another config, other tensors."""
    yield from bytes_cases(whole.upscaler, read_upscaler, 10, rng)
    yield from header_cases(whole.upscaler, read_upscaler, 12, rng)
    yield from tensor_cases(whole.upscaler, read_upscaler, 12, rng)
    tensors, metadata = load_file(whole.upscaler), TensorFile(whole.upscaler).metadata
    config = json.loads(metadata["config"]) | {"rational_resampler": True, "spatial_scale": 1.5, "dims": 3}
    for place, new in rng.sample([(place, new) for place in leaves(config) for new in WRONG], 20):
        stated = {"config": json.dumps(replaced(config, place, new))}
        yield Case(
            f"upscaler {place[0]} = {str(new)[:30]}",
            lambda folder, stated=stated: save_file(tensors, folder / "x.safetensors", stated),
            lambda folder: read_upscaler(folder / "x.safetensors"),
        )


def all_lora_cases(whole: Whole, rng: random.Random) -> Iterator[Case]:
    """LoRAs of every form with other bytes, another header, other settings, other tensors."""
    for path in whole.loras:
        yield from bytes_cases(path, read_lora, 12, rng)
        yield from header_cases(path, read_lora, 16, rng)
    yield from lora_cases(whole.loras, rng)


def all_gemma_cases(whole: Whole, rng: random.Random) -> Iterator[Case]:
    """Gemma as a folder and as a file."""
    yield from gemma_cases(whole.gemma, rng)
    yield from header_cases(whole.gemma_file, read_gemma, 12, rng)


def media_cases(whole: Whole, rng: random.Random) -> Iterator[Case]:
    """A video, a sound and a picture."""
    yield from bytes_cases(whole.video, read_media, 40, rng)
    yield from bytes_cases(whole.sound, read_media, 30, rng)
    yield from wave_cases(whole.sound)
    yield from bytes_cases(whole.picture, read_picture, 30, rng)


COUNTS = {"transformer": 45, "vae": 45, "audio_vae": 30, "vocoder": 12}

KINDS: dict[str, Callable[[Whole, random.Random], Iterator[Case]]] = {
    "config": lambda whole, rng: config_cases(whole, COUNTS, rng),
    "checkpoint": checkpoint_cases,
    "upscaler": upscaler_cases,
    "lora": all_lora_cases,
    "gemma": all_gemma_cases,
    "cache": lambda whole, rng: cache_cases(rng),
    "media": media_cases,
}


def cases(whole: Whole, kind: str, seed: int = 0) -> Iterator[Case]:
    """All damaged inputs of a kind; another ``seed`` makes others."""
    return KINDS[kind](whole, random.Random(seed))
