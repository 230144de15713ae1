"""The text path: a Gemma that stays as random as it was drawn, a projection and two connectors that learn to read it.

Random features are enough here, because captions are short. The connectors spell out the whole caption in every row of
a context, registers included: any few rows then stand for all 1024, which makes training the transformer cheap.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ...checkpoint.components import COMPONENTS
from ...checkpoint.keys.gemma import GEMMA as GEMMA_KEYS
from ...checkpoint.models import BUILT_IN_GEMMA as GEMMA
from ...checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ...text import Connector, GemmaConfig, GemmaEncoder, HiddenStates, compute_hidden_states, connect, extract_features
from .. import world
from .config import CONFIG
from .stage import Stage, keep

UNSAID = "unsaid"
QUESTIONS: dict[str, list[Any]] = {
    "colour": [*world.COLOURS, UNSAID],
    "place": [*world.PLACES, UNSAID],
    "count": [*world.COUNT_WORDS, UNSAID],
    "room": [*world.ROOMS, UNSAID],
}
NO_ANSWERS = [possible.index(UNSAID) for possible in QUESTIONS.values()]

# Words that say nothing about this world; together with the empty prompt they mean "anything".
OTHER_WORDS = (
    "worst quality inconsistent motion blurry jittery distorted low ugly watermark text static noise people face "
    "hands city street night rain music speech camera slow fast cinematic detailed beautiful the of and with"
)

FIRST_STEPS = 150  # have short contexts, which are cheap and share all weights with full ones
ROWS_AT_ONCE = 4096  # in all contexts of a step
EXAMINED = 48  # rows of each context

VARIANTS = 12  # captions kept per meaning
ROWS = 128  # context rows kept per caption


# Captions


def unrelated_caption(rng: np.random.Generator) -> str:
    """Draw a prompt that says nothing: empty half of the time, else a few words from elsewhere."""
    if rng.random() < 0.5:
        return ""
    return " ".join(rng.choice(OTHER_WORDS.split(), size=rng.integers(1, 12)))


def answers_of(scene: world.Scene, room: str) -> list[int]:
    """Return what a caption of ``scene`` answers to each question; ``room`` may be unsaid."""
    said = {"colour": scene.colour, "place": scene.place, "count": scene.count, "room": room}
    return [possible.index(said[question]) for question, possible in QUESTIONS.items()]


def sample_caption(rng: np.random.Generator) -> tuple[str, list[int]]:
    """Draw a caption, and return it with what it answers to each question."""
    if rng.random() < 0.15:
        return unrelated_caption(rng), NO_ANSWERS
    scene, mention_room = world.sample_scene(rng), bool(rng.random() < 0.5)
    return world.caption(scene, rng, mention_room), answers_of(scene, scene.room if mention_room else UNSAID)


def meaning(scene: world.Scene, room: str) -> int:
    """Return the number of what a caption of ``scene`` says; ``room`` may be unsaid."""
    return _number(answers_of(scene, room))


def _number(answers: list[int]) -> int:
    return int(np.ravel_multi_index(answers, [len(possible) for possible in QUESTIONS.values()]))


NOTHING = _number(NO_ANSWERS)


def captions_by_meaning(rng: np.random.Generator, variants: int = VARIANTS) -> dict[int, list[str]]:
    """Some captions of everything that can be said, and of nothing."""
    captions = {}
    for colour, place, count, room in product(world.COLOURS, world.PLACES, world.COUNT_WORDS, QUESTIONS["room"]):
        scene = world.sample_scene(rng, colour, place, count, None if room == UNSAID else room)
        captions[meaning(scene, room)] = [world.caption(scene, rng, room != UNSAID) for _ in range(variants)]
    empty = variants // 2
    captions[NOTHING] = [""] * empty + [unrelated_caption(rng) for _ in range(variants - empty)]
    return captions


# Gemma

SPECIAL = {"pad": 0, "eos": 1, "bos": 2, "unk": 3}
SPOKEN = 508  # tokens of the tokenizer; the rest of the vocabulary stands for pictures

GEMMA_CONFIG: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "boi_token_index": SPOKEN,
    "eoi_token_index": SPOKEN + 1,
    "image_token_index": SPOKEN + 2,
    "eos_token_id": [1, 106],
    "initializer_range": 0.02,
    "mm_tokens_per_image": 4,
    "torch_dtype": "bfloat16",
    "text_config": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "max_position_embeddings": 131072,
        "sliding_window": 1024,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "initializer_range": 0.02,
        "model_type": "gemma3_text",
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000,
        "sliding_window_pattern": 6,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    },
    "vision_config": {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 16,
        "image_size": 28,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-06,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 1,
        "patch_size": 14,
        "vision_use_head": False,
    },
}
PREPROCESSOR_CONFIG = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_pan_and_scan": None,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "image_processor_type": "Gemma3ImageProcessor",
    "image_seq_length": 4,
    "processor_class": "Gemma3Processor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 28, "width": 28},
}
TOKENIZER_CONFIG = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
    "model_max_length": 131072,
    "sp_model_kwargs": None,
    "spaces_between_special_tokens": False,
    "tokenizer_class": "GemmaTokenizer",
}


def write_text_encoder(folder: Path) -> None:
    """Write a Hugging Face folder with Gemma and its tokenizer; the same one every time."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    write_gemma(folder)


def write_tokenizer(folder: Path) -> None:
    """SentencePiece, fitted to captions and able to write any other prompt in bytes; and the same as tokenizer.json."""
    from sentencepiece import SentencePieceTrainer

    rng = np.random.default_rng(0)
    captions = [world.caption(world.sample_scene(rng), rng) for _ in range(4000)]
    captions += [unrelated_caption(rng) for _ in range(1000)]
    model = BytesIO()
    special: dict[str, Any] = {f"{name}_id": number for name, number in SPECIAL.items()}
    special |= {f"{name}_piece": f"<{name}>" for name in SPECIAL}
    SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        model_type="bpe",
        vocab_size=SPOKEN,
        **special,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    write_fast_tokenizer(folder)
    _write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    named = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    _write_json(folder / "special_tokens_map.json", named)


def write_fast_tokenizer(folder: Path) -> None:
    """tokenizer.json from tokenizer.model."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    vocabulary = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    # A merge is any split of a piece into two known ones; it comes as early as the piece that results.
    merges = []
    for piece, number in vocabulary.items():
        if pieces.is_byte(number) or pieces.is_control(number) or pieces.is_unknown(number):
            continue
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
        merges += sorted(known, key=lambda split: (vocabulary[split[0]], vocabulary[split[1]]))
    fast = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    fast.normalizer = normalizers.Replace(" ", "\u2581")
    fast.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", SPECIAL["bos"])])
    fast.add_special_tokens([f"<{name}>" for name in SPECIAL])
    fast.save(str(folder / "tokenizer.json"))


def write_gemma(folder: Path) -> None:
    """Random weights under the names of the release, pictures included."""
    generator = torch.Generator().manual_seed(0)
    gemma = GemmaEncoder(GemmaConfig.from_json(GEMMA_CONFIG["text_config"]))
    shapes = {GEMMA_KEYS.official(name): weight.shape for name, weight in gemma.named_parameters()} | picture_shapes()
    state = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            value = torch.randn(shape, generator=generator)
            value *= shape[-1] ** -0.5 if len(shape) == 2 else 1
            value *= 0.02 if "vision_model.embeddings" in name else 1
        else:
            # The norms of the text model multiply by 1 + weight.
            neutral = "vision_model" in name and "norm" in name and name.endswith("weight")
            value = torch.full(shape, float(neutral))
        state[name] = value.bfloat16()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # others may read it, too
    _write_json(folder / "config.json", GEMMA_CONFIG)
    _write_json(folder / "preprocessor_config.json", PREPROCESSOR_CONFIG)


def picture_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of Gemma's part for pictures, which LTX-2 does not use but every release contains."""
    vision = GEMMA_CONFIG["vision_config"]
    width, hidden, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    tower = {
        "embeddings.patch_embedding.weight": (width, vision["num_channels"], patch, patch),
        "embeddings.patch_embedding.bias": (width,),
        "embeddings.position_embedding.weight": ((vision["image_size"] // patch) ** 2, width),
        "post_layernorm.weight": (width,),
        "post_layernorm.bias": (width,),
    }
    layer: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
    layer |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    layer |= {"layer_norm1": (width,), "layer_norm2": (width,)}
    for name, shape in layer.items():
        tower |= {f"encoder.layers.0.{name}.weight": shape, f"encoder.layers.0.{name}.bias": shape[:1]}
    projector = "multi_modal_projector.mm_"
    return {f"vision_tower.vision_model.{name}": shape for name, shape in tower.items()} | {
        f"{projector}input_projection_weight": (width, GEMMA_CONFIG["text_config"]["hidden_size"]),
        f"{projector}soft_emb_norm.weight": (width,),
    }


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2), encoding="utf-8", newline="\n")


# Networks


class Reader:
    """Captions to the hidden states of the miniature's Gemma."""

    def __init__(self, device: str):
        files = open_text_encoder(GEMMA)
        self.encoder, self.tokenizer = build_text_encoder(files, torch.float32).to(device), files.tokenizer()

    def __call__(self, captions: Sequence[str]) -> HiddenStates:
        """Return the hidden states of ``captions``."""
        return compute_hidden_states(self.encoder, self.tokenizer, captions)


def new_networks() -> dict[str, Any]:
    """Projection and connectors before training."""
    gemma = open_text_encoder(GEMMA).config
    shapes = {"both.weight": (gemma.width, gemma.width * (gemma.layers + 1))}
    names = ("text_features", "video_connector", "audio_connector")
    networks = {name: COMPONENTS[name].make(CONFIG, shapes) for name in names}
    for network in networks.values():
        for name, parameter in network.named_parameters():
            if name == "registers":
                nn.init.normal_(parameter)
            elif "norm" in name:
                nn.init.ones_(parameter)
    return networks


class Examiner(nn.Module):
    """Linear questions to single context rows; nobody needs it after the training."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(possible)) for possible in QUESTIONS.values())

    def forward(self, rows: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Context rows (B, R, D) and true answers (B, questions) to a loss and the share of right answers."""
        losses, right = [], []
        for head, answer in zip(self.heads, answers.T):
            logits = head(rows).movedim(-1, 1)  # (B, choices, R)
            expected = answer[:, None].expand(-1, rows.shape[1])
            losses.append(F.cross_entropy(logits, expected))
            right.append((logits.argmax(dim=1) == expected).float().mean())
        return torch.stack(losses).sum(), torch.stack(right).mean()


# Stages


def train_text(work: Path, minutes: float, device: str, seed: int) -> None:
    """Teach projection and connectors to say in every row of a context what the caption said."""
    read, networks = Reader(device), {name: network.to(device) for name, network in new_networks().items()}
    features = networks["text_features"]
    connectors: list[Connector] = [networks["video_connector"], networks["audio_connector"]]
    examiners = nn.ModuleList(Examiner(connector.config.width) for connector in connectors).to(device)
    stage = Stage(work / "text.pt", minutes, 3e-3, {**networks, "examiners": examiners})
    rng = np.random.default_rng([seed, stage.step])
    for step in stage:
        rows = 128 if step < FIRST_STEPS else 1024
        captions, truth = zip(*(sample_caption(rng) for _ in range(ROWS_AT_ONCE // rows)))
        reading, expected = read(captions), torch.tensor(truth, device=device)
        tokens, _ = features(reading.states, reading.mask)
        chosen = torch.from_numpy(rng.choice(rows, EXAMINED, replace=False)).to(device)
        results = []
        for connector, examiner in zip(connectors, examiners):
            connector.config = replace(connector.config, rows=rows)
            results.append(examiner(connector(tokens, reading.mask)[:, chosen], expected))
        losses, right = zip(*results)
        stage.descend(sum(losses), right=sum(right) / len(right))


def encode_captions(work: Path, minutes: float, device: str, seed: int) -> None:
    """Contexts of some captions of every meaning, a random choice of their rows."""
    read, networks = Reader(device), new_networks()
    state = torch.load(work / "text.pt", weights_only=True, map_location="cpu")
    for name, network in networks.items():
        network.load_state_dict(state[name])
        network.to(device)
    rng = np.random.default_rng([seed, 2])
    banks = {}
    for number, captions in captions_by_meaning(rng).items():
        contexts = [
            connect(features, networks["video_connector"], networks["audio_connector"])
            for features in extract_features(networks["text_features"], read(captions))
        ]
        rows = torch.from_numpy(rng.choice(contexts[0].video.shape[1], ROWS, replace=False)).to(device)
        streams = ([context.video for context in contexts], [context.audio for context in contexts])
        banks[number] = torch.stack([torch.cat(stream)[:, rows] for stream in streams]).half().cpu()
    keep({"banks": banks, "nothing": NOTHING}, work / "captions.pt")
