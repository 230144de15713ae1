"""CPU time and memory of reading a prompt beside others: python -m benchmarks.text

Gemma 3, beside transformers and ComfyUI's own, over the tokens of a prompt; and the connectors, beside ltx-core and
ComfyUI, over 1024 rows. Both of a quarter of the width.
"""

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

import torch

from ltx2_core.checkpoint.keys.gemma import GEMMA
from ltx2_core.checkpoint.text_encoder import kind_titled
from ltx2_core.checkpoint.versions import VERSIONS

from .contest import COMFY, LTX_CORE, OURS, ROUNDS, TRANSFORMERS, Case, Run, measure, table
from .peers import find_comfy
from .weights import component, drawn, loaded, released

TOKENS = (16, 64, 256)
CONFIGURATORS = {"video": "Embeddings1DConnectorConfigurator", "audio": "AudioEmbeddings1DConnectorConfigurator"}
SIZES = {"width": 960, "hidden": 3840, "layers": 6, "heads": 4, "kv_heads": 2, "head_dim": 256, "vocabulary": 4096}
ROWS = 1024  # of a context


def gemma_case(tokens: int) -> Case:
    """Return Gemma over a prompt of so many tokens: the last hidden states before the norm."""
    config = replace(kind_titled(VERSIONS["2.3"].encoder).config(), **SIZES)  # type: ignore[type-var]
    ours = drawn(config.build())
    state = {GEMMA.official(key).removeprefix(GEMMA.prefixes[0]): each for key, each in ours.state_dict().items()}
    ids = torch.randint(3, SIZES["vocabulary"], (1, tokens), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    contenders: dict[str, Run] = {OURS: lambda: ours(ids, mask)[-2]}
    if find_spec("transformers"):
        from transformers import Gemma3TextConfig, Gemma3TextModel

        theirs = loaded(Gemma3TextModel(Gemma3TextConfig(**config.to_json())), state)
        read = {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True}
        contenders[TRANSFORMERS] = lambda: theirs(**read).hidden_states[-2]
    if find_comfy():
        import comfy.ops
        from comfy.text_encoders.llama import Gemma3_12B_Config, Llama2_

        sizes = Gemma3_12B_Config(
            SIZES["vocabulary"], SIZES["width"], SIZES["hidden"], SIZES["layers"], SIZES["heads"], SIZES["kv_heads"]
        )
        own = loaded(Llama2_(sizes, dtype=torch.float32, ops=comfy.ops.disable_weight_init), state)
        # Its encoder of LTX-2 asks for the hidden states of all layers, as ours does.
        contenders[COMFY] = lambda: own(ids, mask, intermediate_output="all", final_layer_norm_intermediate=False)[1][
            :, -2
        ]
    return Case(f"Gemma 3, {tokens} tokens", contenders)


def connector_case(version: str, stream: str) -> Case:
    """Return the connector of a stream over features of all rows."""
    config = released(version)
    section = config["transformer"]
    for name in ("connector_num_attention_heads", "audio_connector_num_attention_heads"):
        section |= {name: section[name] // 4} if name in section else {}
    ours, state = component(f"{stream}_connector", config)
    state = {key.split("_embeddings_connector.")[1]: tensor for key, tensor in state.items()}
    x = torch.randn(1, ROWS, state["learnable_registers"].shape[1], generator=torch.Generator().manual_seed(1))
    contenders: dict[str, Run] = {OURS: lambda: ours(x)}
    if find_spec("ltx_core"):
        from ltx_core.text_encoders.gemma import convert_to_additive_mask, embeddings_connector

        theirs = loaded(getattr(embeddings_connector, CONFIGURATORS[stream]).from_config(config), state)
        mask = convert_to_additive_mask(torch.ones(1, ROWS, dtype=torch.int64), torch.float32)
        contenders[LTX_CORE] = lambda: theirs(x, mask)[0]
    if find_comfy():
        import comfy.ops
        from comfy.ldm.lightricks.embeddings_connector import Embeddings1DConnector

        words = {"attention_head_dim": 128, "num_attention_heads": 30, "num_layers": 2, "apply_gated_attention": False}
        given = {word: section.get(f"connector_{word}", usual) for word, usual in words.items()}
        if stream == "audio":
            given |= {word: section.get(f"audio_connector_{word}", each) for word, each in given.items()}
        own = Embeddings1DConnector(
            **given, split_rope=True, double_precision_rope=True, operations=comfy.ops.disable_weight_init
        )
        own = loaded(own, state)
        contenders[COMFY] = lambda: own(x)[0]
    return Case(f"connector {version}, {stream}, {ROWS} rows", contenders, far={COMFY: 0.1})


def cases() -> Iterator[Case]:
    """Yield every case."""
    yield from map(gemma_case, TOKENS)
    for version in ("2.0", "2.3"):
        for stream in CONFIGURATORS:
            yield connector_case(version, stream)


def main(rounds: int = ROUNDS) -> str:
    """Measure every case, and return the table."""
    torch.set_num_threads(1)
    return table(measure(case, rounds) for case in cases())


if __name__ == "__main__":
    print(main())
