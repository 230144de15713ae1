"""A short prompt becomes a long one that still says the same: what a model is told, and what becomes of its answer."""

import re
import unicodedata

# It asks for what the authors of LTX-2 ask of a prompt: shot, camera, order of events, sounds.
INSTRUCTION = """\
You write prompts for a model that makes a video together with its sound. The user gives a short idea. Answer with one \
paragraph of 120 to 200 words in the language of the idea, and nothing else: no title, no list, no remark.

Keep everything that the idea names: each person, animal, thing, place, colour, number and name, by the same words. \
Keep what somebody says word for word, in quotation marks. Add no other persons, and no story that the idea does not \
have. If the idea says nothing of the camera, let it stand still.

Write in the present tense and in the order of events. Begin with the kind of shot and what is seen first. Then tell \
what moves and how, how the light is, and what the place looks like. Say for every moment what is heard: voices and \
how they sound, steps, objects, wind, music if there is any. Tell only what can be seen or heard, not what somebody \
feels or means."""

# What is added where a picture is seen.
ABOUT_PICTURE = """\
The picture is the first frame of the video. Look at it before you write, and name what it shows as it is. What stays \
as it is in the picture needs few words: tell what happens from then on, what moves, and what is heard. Where the \
idea wants something else than the picture shows, tell how the one turns into the other."""

_PLAIN = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u2032": "'", "\u201c": '"', "\u201d": '"', "\u2033": '"', "\u2013": "-",
    "\u2014": "-", "\u2212": "-", "\u00a0": " ", "\u202f": " ", "*": None, "`": None, "#": None,
})  # fmt: skip

# Words that carry no thing of their own; how many of the others may be lost is KEPT_SHARE.
_SMALL = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for from has have he her his in into is it its of off on onto or out over she so "
        "some that the their them then there they this to two under up very was were while who with you your",
    )
)
KEPT_SHARE = 0.6

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_QUOTED = re.compile(r'"([^"]+)"')
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"']?")
_WIDE = 0x2E80  # from here on scripts set no blanks between words


def clean(answer: str) -> str:
    """Return an answer as one line of plain signs, from its first letter on, without an unfinished sentence."""
    line = " ".join(answer.translate(_PLAIN).split())
    start = next((i for i, sign in enumerate(line) if sign.isalnum()), len(line))
    start -= start > 0 and line[start - 1] == '"'
    ends = [match.end() for match in _SENTENCE_END.finditer(line)]
    return line[start : ends[-1] if ends else len(line)].strip()


def find_lost(prompt: str, enhanced: str) -> list[str]:
    """Return what of ``prompt`` an ``enhanced`` one no longer says; nothing if it still says the same.

    What is quoted, numbers, and names (capital letters inside a sentence) have to stay. Of the other words that stand
    for something at least KEPT_SHARE have to, in any form.
    """
    kept = _words(enhanced)
    quoted = [said for said in _QUOTED.findall(prompt.translate(_PLAIN)) if _folded(said) not in _folded(enhanced)]
    required, other = _things(prompt)
    lost, gone = ([word for word in some if not _is_in(kept, word.casefold())] for some in (required, other))
    enough = len(other) - len(gone) >= KEPT_SHARE * len(other)
    return [*quoted, *lost, *([] if enough else gone)]


def _things(prompt: str) -> tuple[list[str], list[str]]:
    """The names and numbers of a prompt, and its other words that are not small, each once."""
    plain, required, other = prompt.translate(_PLAIN), dict[str, None](), dict[str, None]()
    for match in _WORD.finditer(plain):
        word, before = match[0], plain[: match.start()].rstrip(" \"'(")
        begins = not before or before[-1] in ".!?:;\n"
        if any(sign.isdigit() for sign in word) or (word[0].isupper() and not begins and len(word) > 1):
            required[word] = None
        else:
            other |= dict.fromkeys(each for each in _pieces(word) if each.casefold() not in _SMALL)
    return list(required), list(other)


def _words(text: str) -> set[str]:
    found = [match[0].casefold() for match in _WORD.finditer(text.translate(_PLAIN))]
    return {piece for word in found for piece in (word, *_pieces(word))}


def _pieces(word: str) -> list[str]:
    """A word as it is compared: whole, or sign by sign in scripts that set no blanks."""
    return list(word) if ord(word[0]) >= _WIDE else [word]


def _is_in(kept: set[str], word: str) -> bool:
    return word in kept or (word.isalpha() and any(_same(word, each) for each in kept))


def _same(word: str, other: str) -> bool:
    """Whether two words are forms of one: city and cities, bounce and bouncing, run and running."""
    shorter, longer = sorted((word, other), key=len)
    stem = shorter[:-1] if len(shorter) > 3 and shorter[-1] in "ey" else shorter
    return longer.startswith(stem) and len(longer) - len(stem) <= 4


def _folded(text: str) -> str:
    """Text as quotations are compared: letters and numbers alone, in small letters."""
    plain = unicodedata.normalize("NFKC", text.translate(_PLAIN)).casefold()
    return " ".join(_WORD.findall(plain))
