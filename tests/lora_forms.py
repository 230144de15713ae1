"""How trainers write down the change of a weight, in every form: a file's tensors, and the change by a formula."""

import torch


def peft_lora(weight, size, alpha):
    down, up = torch.randn(4, weight.shape[1]), torch.randn(weight.shape[0], 4) * size
    return {"lora_A.weight": down, "lora_B.weight": up}, up @ down  # alpha = rank


def kohya_lora(weight, size, alpha):
    down, up = torch.randn(4, weight.shape[1]), torch.randn(weight.shape[0], 4) * size
    parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(alpha)}
    return parts, alpha / 4 * up @ down


def dora(weight, size, alpha, axis=1):
    """The trained lengths are those of the rows (axis 1), or of the columns, of the changed matrix."""
    parts, change = kohya_lora(weight, size, alpha)
    lengths = torch.linalg.norm(weight, dim=axis, keepdim=True) * 1.2
    direction = (weight + change) / torch.linalg.norm(weight + change, dim=axis, keepdim=True)
    return parts | {"dora_scale": lengths}, direction * lengths - weight


def loha(weight, size, alpha):
    out, width = weight.shape
    a, b, c, d = torch.randn(out, 3) * size, torch.randn(3, width), torch.randn(out, 3), torch.randn(3, width)
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(alpha)}
    return parts, alpha / 3 * (a @ b) * (c @ d)


def lokr(weight, size, alpha, factored=True):
    out, width = weight.shape
    small = torch.randn(2, 2) * size
    if not factored:  # then there is no rank, and alpha says nothing
        large = torch.randn(out // 2, width // 2)
        return {"lokr_w1": small, "lokr_w2": large, "alpha": torch.tensor(alpha)}, torch.kron(small, large)
    a, b = torch.randn(out // 2, 2), torch.randn(2, width // 2)
    parts = {"lokr_w1": small, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(alpha)}
    return parts, alpha / 2 * torch.kron(small, a @ b)


def difference(weight, size, alpha):
    change = torch.randn_like(weight) * size
    return {"diff": change}, change


def glora(weight, size, alpha, old=False):
    """The weight times one product, and another: LyCORIS. Once it had the names of each pair the other way round."""
    out, width = weight.shape
    first, second, up, down = (torch.randn(shape) for shape in ((width, 2), (2, width), (out, 2), (2, width)))
    change = alpha / 2 * size * (weight @ first @ second + up @ down)
    names = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
    parts = dict(zip(names, (first * size, second, up * size, down)))
    return {f"{name}.weight": part for name, part in parts.items()} | {"alpha": torch.tensor(alpha)}, change


def cayley(blocks):
    """The rotation of each block, one after the other."""
    one = torch.eye(blocks.shape[-1])
    return [(one + block - block.T) @ torch.linalg.inv(one - block + block.T) for block in blocks]


def oft(weight, size, alpha, rescaled=False):
    """The transposed blocks turn rows; an alpha of 0 is no limit: LyCORIS, ComfyUI."""
    blocks = torch.randn(len(weight) // 2, 2, 2) * 0.3
    lengths = 1 + 0.2 * torch.rand(len(weight), 1) * rescaled
    parts = {"oft_blocks": blocks} | ({"rescale": lengths, "alpha": torch.tensor(0.0)} if rescaled else {})
    return parts, lengths * (torch.block_diag(*cayley(blocks)).T @ weight) - weight


def boft(weight, size, alpha, block=2):
    """In stage i, blocks take rows in turn from both halves of so many: LyCORIS, ComfyUI."""
    out, changed = len(weight), weight
    pairs = out // block & -(out // block)  # the largest power of 2 in it
    stages = torch.randn(pairs.bit_length(), out // block, block, block) * 0.2
    for stage, blocks in enumerate(stages):
        half = 2**stage * block // 2
        order = [row + side for first in range(0, out, 2 * half) for row in range(first, first + half)
                 for side in (0, half)]  # fmt: skip
        turn = torch.zeros(out, out)
        turn[torch.tensor(order)[:, None], torch.tensor(order)] = torch.block_diag(*cayley(blocks))
        changed = turn @ changed
    return {"oft_blocks": stages, "rescale": torch.full((out, 1), 1.1)}, 1.1 * changed - weight


def oft_of_peft(weight, size, alpha, scaled=False, shared=False):
    """Numbers above the diagonal, of which the beginning of a series turns columns: PEFT, OneTrainer."""
    block, width = 4, weight.shape[1]
    entries = torch.randn(1 if shared else width // block, 6) * 0.2
    turns, (rows, columns) = [], torch.triu_indices(block, block, 1)
    for numbers in entries.expand(width // block, -1):
        skew = torch.zeros(block, block)
        skew[rows, columns] = numbers / (2 * 3**0.5 if scaled else 1)
        skew = skew - skew.T
        turns.append(
            torch.eye(block) + 2 * skew + 2 * skew @ skew + 2 * skew @ skew @ skew + (skew @ skew) @ (skew @ skew)
        )
    mark = {"oft_R.scaled_oft": torch.tensor(True)} if scaled else {}
    return {"oft_R.weight": entries} | mark, weight @ torch.block_diag(*turns).T - weight


FILES = {
    "LoRA": peft_lora,
    "LoRA with alpha": kohya_lora,
    "DoRA": dora,
    "DoRA by columns": lambda *given: dora(*given, axis=0),
    "LoHa": loha,
    "LoKr": lokr,
    "LoKr of whole matrices": lambda *given: lokr(*given, factored=False),
    "difference": difference,
    "GLoRA": glora,
    "GLoRA of old": lambda *given: glora(*given, old=True),
    "OFT": oft,
    "OFT with lengths": lambda *given: oft(*given, rescaled=True),
    "BOFT": boft,
    "OFT of PEFT": oft_of_peft,
    "OFT of OneTrainer": lambda *given: oft_of_peft(*given, scaled=True),
    "OFT with one block for all": lambda *given: oft_of_peft(*given, shared=True),
}
