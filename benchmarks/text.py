"""CPU time of reading a prompt beside the libraries that it comes from: python -m benchmarks.text

Gemma 3 beside transformers, over the tokens of a prompt, and the connectors beside ltx-core, over its 1024 rows; both
of a quarter of the width, with the same random weights, on one CPU thread. All run in every round, in turning order;
what counts is the median of the ratios. A library that is missing is left out.
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from agreement import relative_error  # noqa: E402

from benchmarks.block import seconds  # noqa: E402
from benchmarks.markdown import markdown  # noqa: E402
from ltx2_core.checkpoint.components import COMPONENTS  # noqa: E402
from ltx2_core.checkpoint.keys.gemma import GEMMA  # noqa: E402
from ltx2_core.checkpoint.keys.text import AUDIO_CONNECTOR, VIDEO_CONNECTOR  # noqa: E402
from ltx2_core.checkpoint.text_encoder import kind_titled  # noqa: E402
from ltx2_core.checkpoint.versions import VERSIONS  # noqa: E402

ROUNDS = 5
TOKENS = (16, 64, 256)
CONNECTORS = {"video": VIDEO_CONNECTOR, "audio": AUDIO_CONNECTOR}
CONFIGURATORS = {"video": "Embeddings1DConnectorConfigurator", "audio": "AudioEmbeddings1DConnectorConfigurator"}
SIZES = {"width": 960, "hidden": 3840, "layers": 6, "heads": 4, "kv_heads": 2, "head_dim": 256, "vocabulary": 4096}
ROWS = 1024  # of a context

Pair = tuple[Callable[[], Tensor], Callable[[], Tensor]]


def draw(network: nn.Module) -> nn.Module:
    """Fill ``network`` at random."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        scale = 0.1 if parameter.ndim == 1 or "registers" in name else 1 / math.sqrt(parameter.shape[-1])
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return network.eval().requires_grad_(False)


def gemma(tokens: int) -> Pair:
    """Return our Gemma and that of transformers over a prompt of so many tokens: the hidden states before the norm."""
    from transformers import Gemma3TextConfig, Gemma3TextModel

    config = replace(kind_titled(VERSIONS["2.3"].encoder).config(), **SIZES)  # type: ignore[type-var]
    ours = draw(config.build())
    theirs = Gemma3TextModel(Gemma3TextConfig(**config.to_json())).eval()
    names = theirs.state_dict().keys()
    theirs.load_state_dict(
        {
            name: tensor
            for key, tensor in ours.state_dict().items()
            if (name := GEMMA.official(key).removeprefix(GEMMA.prefixes[0])) in names
        }
    )
    ids = torch.randint(3, SIZES["vocabulary"], (1, tokens), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    return (
        lambda: ours(ids, mask)[-2],
        lambda: theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2],
    )


def connector(version: str, stream: str) -> Pair:
    """Return our connector and that of ltx-core, over features of all rows."""
    from ltx_core.text_encoders.gemma import convert_to_additive_mask, embeddings_connector

    section: dict[str, Any] = json.loads((HERE.parent / "tests" / "golden" / f"config_{version}.json").read_text())
    config = section["transformer"]
    for name in ("connector_num_attention_heads", "audio_connector_num_attention_heads"):
        config |= {name: config[name] // 4} if name in config else {}
    theirs = getattr(embeddings_connector, CONFIGURATORS[stream]).from_config({"transformer": config})
    theirs = draw(theirs.to(torch.float32))
    ours = COMPONENTS[f"{stream}_connector"].make({"transformer": config}, {})
    state = theirs.state_dict().items()
    ours.load_state_dict({CONNECTORS[stream].ours(f"{stream}_embeddings_connector.{k}", ""): v for k, v in state})
    x = torch.randn(1, ROWS, theirs.inner_dim, generator=torch.Generator().manual_seed(1))
    mask = convert_to_additive_mask(torch.ones(1, ROWS, dtype=torch.int64), torch.float32)
    return lambda: ours(x), lambda: theirs(x, mask)[0]


def measure(pair: Pair, rounds: int = ROUNDS) -> list[str]:
    """Return our seconds, and the median of the ratios to the other one, which says the same."""
    ours, theirs = (run() for run in pair)
    assert relative_error(ours, theirs) < 1e-4
    found = []
    for number in range(rounds):
        order = (1, 0) if number % 2 else (0, 1)
        taken = {which: seconds(pair[which]) for which in order}  # type: ignore[arg-type]
        found.append((taken[0], taken[0] / taken[1]))
    time, ratio = (median(each) for each in zip(*found))
    return [f"{time:.3f}", f"{ratio:.2f}"]


@torch.no_grad()
def main(rounds: int = ROUNDS) -> str:
    """Measure every case, and print and return the table."""
    torch.set_num_threads(1)
    rows = []
    if find_spec("transformers"):
        rows += [[f"Gemma 3, {n} tokens, beside transformers", *measure(gemma(n), rounds)] for n in TOKENS]
    if find_spec("ltx_core"):
        for version in ("2.0", "2.3"):
            for stream in CONNECTORS:
                row = measure(connector(version, stream), rounds)
                rows.append([f"connector {version}, {stream}, beside ltx-core", *row])
    print(table := markdown(["", "seconds", "ours / this"], rows))
    return table


if __name__ == "__main__":
    main()
