"""Matrices that stay as they are stored when others are cast or written anew (see README.md, "Casting")."""

import re
from collections.abc import Callable, Collection, Iterable

# By a word, how the names of the transformer's matrices begin that belong together; ``{last}`` is the number of the
# last block.
_TRANSFORMER = {
    # Of both streams, with AdaLN and captions: few bytes, on which every token of a step depends.
    "ends": r"(?!blocks\.)",
    # What the first and the last block get wrong all others inherit, or none can mend.
    "blocks": r"blocks\.(0|{last})\.",
    # It turns metallic or choppy long before a picture turns soft.
    "sound": r"blocks\.\d+\.audio\.",
    # Where picture and sound meet: lips and impacts stay on time.
    "crossing": r"blocks\.\d+\.(audio_to_video|video_to_audio)\.",
    # One number per head: nothing to save.
    "gates": r"blocks\.\d+\.video\.\w+\.gate\.",
}

# The same of a text encoder: the table of words, on which every layer works, and its first and last layer.
_TEXT_ENCODER = {"ends": r"model\.embed_tokens\.", "blocks": r"model\.layers\.(0|{last})\."}

# The words by which people choose what stays.
KEPT_WORDS = tuple(_TRANSFORMER)

_NUMBER = re.compile(r"(?:model\.layers|blocks)\.(\d+)\.")


def kept_names(names: Iterable[str], words: Collection[str] = KEPT_WORDS) -> Callable[[str], bool]:
    """Return whether a matrix stays, by its name here.

    Args:
        names: all of the transformer or of the text encoder that it is one of.
        words: of KEPT_WORDS, what stays.
    """
    last = max((int(found[1]) for name in names if (found := _NUMBER.match(name))), default=0)
    is_text = any(name.startswith("model.") for name in names)
    groups = _TEXT_ENCODER if is_text else _TRANSFORMER
    patterns = [groups[word].replace("{last}", str(last)) for word in words if word in groups]
    return lambda name: any(re.match(pattern, name) for pattern in patterns)
