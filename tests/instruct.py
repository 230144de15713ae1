"""An instruct Gemma for tests: the miniature's, with marks for turns and pictures. What it writes is noise."""

import json
import shutil
from pathlib import Path

from ltx2_core.checkpoint.models import MINIATURE

GEMMA = MINIATURE / "gemma-mini"
MARKS = {505: "<start_of_turn>", 506: "<end_of_turn>"}  # in place of the last pieces
MARKS |= {508: "<start_of_image>", 509: "<end_of_image>"}  # behind them, as its config says


def write_instruct(folder: Path) -> Path:
    """Write it to ``folder``, which is made, and return that."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GEMMA / name, folder)
    tokenizer = json.loads((GEMMA / "tokenizer.json").read_text("utf-8"))
    model, like = tokenizer["model"], tokenizer["added_tokens"][-1]
    for number, mark in MARKS.items():
        if old := next((piece for piece, at in model["vocab"].items() if at == number), None):
            del model["vocab"][old]
            model["merges"] = [pair for pair in model["merges"] if "".join(pair) != old and old not in pair]
        model["vocab"][mark] = number
        tokenizer["added_tokens"].append(like | {"id": number, "content": mark})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder
