"""The ratios of a page as a picture beside it: python -m benchmarks.chart benchmarks/results/peers.md"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from .contest import COMFY, DIFFUSERS, LTX_CORE, OURS, TRANSFORMERS

COLOURS = {LTX_CORE: "#c1440e", DIFFUSERS: "#1f6fb2", COMFY: "#b8860b", TRANSFORMERS: "#3a7d44"}
WIDTH, LEFT, RIGHT, TOP, ROW = 960, 470, 30, 74, 20  # in pixels; ratios stand between left and right
TITLE, OURS_BY = "Our CPU time by that of others: left of the thick line we are faster", f"{OURS} / "
MOST = 1.2  # a ratio beyond stands at the edge
STEPS = (0, 0.25, 0.5, 0.75, 1)

Ratios = dict[str, float]  # by the name of the other one


@dataclass(frozen=True)
class Part:
    """A part of the page: its title, and the ratios of each row."""

    title: str
    rows: dict[str, Ratios]


def parts_of(page: str) -> Iterator[Part]:
    """Yield the parts of a page that have a table of ratios."""
    for text in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        names, *rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")] or [[]]
        columns = {n: name.strip().removeprefix(OURS_BY) for n, name in enumerate(names) if OURS_BY in name}
        found = {row[0].strip(): _ratios(row, columns) for row in rows}
        if any(found.values()):
            yield Part(text.splitlines()[0], {name: ratios for name, ratios in found.items() if ratios})


def _ratios(row: list[str], columns: dict[int, str]) -> Ratios:
    cells = {name: re.match(r" (\d+\.\d+) \(", row[n]) for n, name in columns.items() if n < len(row)}
    return {name: float(found[1]) for name, found in cells.items() if found}


def draw(page: str) -> str:
    """Return the ratios of a page as SVG: a row for each piece of work, a dot for each other one."""
    y, marks, known = TOP, [], set()
    for part in parts_of(page):
        marks.append(_text(12, y + 18, part.title, "bold"))
        y += ROW + 8
        for name, ratios in part.rows.items():
            marks.append(_text(LEFT - 12, y + 13, name, anchor="end"))
            marks += [_dot(other, ratio, y + ROW // 2 - 1) for other, ratio in ratios.items()]
            known |= ratios.keys()
            y += ROW
    legend = [_key(n, name) for n, name in enumerate(name for name in COLOURS if name in known)]
    steps = [_step(each, y) for each in STEPS]
    about = next(line for line in page.splitlines() if line and not line.startswith("#")).rstrip(".")
    body = "\n".join([_text(12, 20, TITLE, "bold"), *legend, *steps, *marks, _text(12, y + 30, about)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 44}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _key(place: int, name: str) -> str:
    x = LEFT + 110 * place
    return f'<circle cx="{x}" cy="40" r="5" fill="{COLOURS[name]}"/>{_text(x + 10, 44, name)}'


def _x(ratio: float) -> float:
    return round(LEFT + min(ratio, MOST) / MOST * (WIDTH - LEFT - RIGHT), 1)


def _dot(name: str, ratio: float, y: float) -> str:
    told = f"<title>{escape(name)}: {ratio:.2f}</title>"
    return f'<circle cx="{_x(ratio)}" cy="{y}" r="5" fill="{COLOURS[name]}" fill-opacity="0.8">{told}</circle>'


def _step(ratio: float, bottom: int) -> str:
    x, width = _x(ratio), 2 if ratio == 1 else 0.5
    line = f'<line x1="{x}" x2="{x}" y1="{TOP - 4}" y2="{bottom}" stroke="gray" stroke-width="{width}"/>'
    return line + _text(x, TOP - 8, f"{ratio:g}", anchor="middle")


def _text(x: float, y: float, text: str, weight: str = "normal", anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" font-weight="{weight}" text-anchor="{anchor}">{escape(text)}</text>'


def write(page: Path) -> Path:
    """Draw the ratios of a page into a file beside it, whose path is returned."""
    picture = page.with_suffix(".svg")
    picture.write_text(draw(page.read_text()))
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    print(write(parser.parse_args().page))
