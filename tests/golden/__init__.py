"""Facts of the released models: names and shapes of all tensors, and outputs of the official code on tiny weights."""

import gzip
import json
from pathlib import Path

FOLDER = Path(__file__).parent
SUFFIX = {"2.0": "2.0_19b", "2.3": "2.3_22b", "2.5": "2.5_22b"}
AS_IN_2_3 = ("video_vae", "audio_vae", "vocoder")  # 2.5 has these with the same names and shapes


def config(version: str) -> dict:
    """The ``config`` entry in the metadata of the official checkpoint."""
    return json.loads((FOLDER / f"config_{version}.json").read_text())


def vectors(name: str) -> dict:
    return json.loads((FOLDER / f"test_vectors_{name}.json").read_text())


def key_list(kind: str, version: str, component: str | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``kind`` ("transformer_text", "video_vae", "audio_vae", "vocoder") in an official file."""
    suffix = SUFFIX["2.3" if version == "2.5" and kind in AS_IN_2_3 else version]
    return shapes(f"{kind}_{suffix}", component)


def shapes(name: str, component: str | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors in the list ``name``, or of those of a component; () for one of any length."""
    lines = gzip.decompress((FOLDER / f"{name}.tsv.gz").read_bytes()).decode().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith(("#", "key\t"))]
    return {
        key: tuple(int(n) for n in shape.split("x") if n.isdigit())
        for key, shape, *rest in rows
        if component is None or rest[0] == component
    }
