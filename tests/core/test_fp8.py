"""Linear layers stored in float8."""

import json

import pytest
import torch
from torch import nn

from ltx2_core.quantization import FORMATS, Fp8Linear, adopt_fp8


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 8)
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4, bias=False)

    def forward(self, ids):
        return self.second(self.first(self.table(ids)))


def quantise(weight: torch.Tensor, kind: torch.dtype, rowwise: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    largest = weight.abs().amax(dim=1, keepdim=True) if rowwise else weight.abs().max()
    scale = largest / torch.finfo(kind).max
    return (weight / scale).to(kind), scale


def marker(**content) -> torch.Tensor:
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def load(state: dict, dtype=None) -> Network:
    with torch.device("meta"):
        network = Network()
    adopt_fp8(network, state, dtype)
    network.load_state_dict(state, assign=True)
    return network


IDS = torch.tensor([[0, 3, 5]])


@pytest.mark.parametrize("kind", FORMATS.values())
@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("spelling", [("weight_scale", "input_scale"), ("scale_weight", "scale_input")])
@torch.no_grad()
def test_a_scaled_weight_computes_as_its_expanded_self(kind, rowwise, spelling):
    state = Network().state_dict()
    for name in ("table", "first", "second"):
        weight, scale = quantise(state.pop(f"{name}.weight"), kind, rowwise)
        state |= {f"{name}.weight": weight, f"{name}.{spelling[0]}": scale, f"{name}.{spelling[1]}": torch.ones(())}
    plain = Network()
    plain.load_state_dict(
        {
            f"{n}.weight": state[f"{n}.weight"].float() * state[f"{n}.{spelling[0]}"]
            for n in ("table", "first", "second")
        }
        | {"first.bias": state["first.bias"]}
    )
    network = load(dict(state), torch.float32)
    assert network.first.weight.dtype == network.second.weight.dtype == kind
    assert isinstance(network.first, Fp8Linear) and isinstance(network.table, nn.Embedding)
    assert torch.equal(network(IDS), plain(IDS))


@torch.no_grad()
def test_float8_beside_other_dtypes():
    """As in re-uploads: one layer scaled and marked, one cast without a scale and with its bias, the rest bfloat16."""
    state = {name: value.bfloat16() for name, value in Network().state_dict().items()}
    weight, scale = quantise(state["second.weight"].float(), torch.float8_e4m3fn)
    state |= {name: state[name].to(torch.float8_e4m3fn) for name in ("first.weight", "first.bias")}
    state |= {
        "second.weight": weight,
        "second.weight_scale": scale,
        "second.comfy_quant": marker(format="float8_e4m3fn"),
    }
    plain = Network().bfloat16()
    plain.load_state_dict(
        {n: v.bfloat16() for n, v in state.items() if n in plain.state_dict()}
        | {"second.weight": (weight.float() * scale).bfloat16()}
    )
    network = load(dict(state))
    assert network.second.weight.data_ptr() == weight.data_ptr()
    assert network.first.weight.dtype == torch.float8_e4m3fn and network.first.bias.dtype == torch.bfloat16
    assert torch.equal(network(IDS), plain(IDS))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"first.weight": torch.zeros(16, 4, dtype=torch.uint8), "first.weight_scale_2": torch.ones(())}, "nvfp4"),
        ({"first.weight": torch.zeros(16, 8, dtype=torch.int8)}, "int8"),
        ({"first.weight": torch.zeros(16, 8, dtype=torch.int8), "first.weight_scale": torch.ones(())}, "int8 with"),
        ({"first.comfy_quant": marker(format="int8_tensorwise")}, "int8_tensorwise"),
        ({"first.weight_scale": torch.ones(())}, "float32 with a scale"),
        (
            {
                "first.weight": torch.zeros(16, 8, dtype=torch.float8_e4m3fn),
                "first.weight_scale": torch.zeros(128, 4, dtype=torch.uint8),
            },
            "float8_e4m3fn with uint8 scales",
        ),
    ],
)
def test_another_format_is_named(change, found):
    with pytest.raises(ValueError, match=f"first.weight is stored as {found}.*reads bf16, fp16, fp32 and fp8"):
        load(Network().state_dict() | change)
