"""Everything that is measured on a CPU beside other implementations, as one page: python -m benchmarks

Writes a page, results/peers.md, with machine, versions and date, and draws its ratios; a few minutes for each part.
ltx-core, diffusers, transformers and ComfyUI (COMFYUI_PATH, else ~/comfy/ComfyUI) are measured where they are found.
What needs a card is in benchmarks.cuda and benchmarks.clips.
"""

import argparse
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import torch

from . import block, chart, codecs, job, loading, sound, start, text, traffic
from .peers import find_comfy

RESULT = Path(__file__).parent / "results" / "peers.md"
PACKAGES = ("torch", "ltx-core", "diffusers", "transformers")
PARTS: dict[str, ModuleType] = {
    "transformer": block, "counts": traffic, "codecs": codecs, "sound": sound, "text": text, "loading": loading,
    "job": job, "start": start,
}  # fmt: skip
HEAD = """# Beside others, on a CPU

{about}.

Written by `python -m benchmarks`. All contenders of a row have the same weights and inputs and take turns in one
process, on one thread. Their results agree to 1e-4 of the largest number, or as far as a case says where others round
elsewhere or have an eps or a rule of their own. A ratio is the median of our CPU time by that of the other, round by
round; in brackets is the most that tensors take beside weights and inputs. "At most" is what a ratio may be.

{missed}

![Our share of the CPU time of others]({picture})"""


def main(arguments: list[str] | None = None) -> str:
    """Measure the parts that are asked for, write the page, and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[*PARTS], help=f"of {','.join(PARTS)}")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    parts = [section(name) for name in options.only]
    rows = [row for part in parts for row in part.splitlines() if "missed: " in row]
    missed = f"{len(rows)} rows miss a limit, and say so." if rows else "All limits are met."
    head = HEAD.format(about=about(), missed=missed, picture=options.output.with_suffix(".svg").name)
    page = "\n\n".join([head, *parts])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page + "\n")
    chart.write(options.output)
    return page


def section(name: str) -> str:
    """Measure a part, and return its table below what the part says of itself."""
    part = PARTS[name]
    title, _, rest = (part.__doc__ or "").partition(": python -m ")
    table = part.main([]) if part is start else part.main()
    details = rest.partition("\n")[2].strip()
    return f"## {name.capitalize()}\n\n{title} (`python -m {part.__name__}`).\n\n{details}\n\n{table}"


def about() -> str:
    """Say what the figures were measured with."""
    return ", ".join((processor(), *map(release, PACKAGES), comfy_release(), date.today().isoformat()))


def processor() -> str:
    """Return the name of the processor."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def release(package: str) -> str:
    """Return a package and its version."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} absent"


def comfy_release() -> str:
    """Return ComfyUI and its version."""
    if not find_comfy():
        return "ComfyUI absent"
    from comfyui_version import __version__

    return f"ComfyUI {__version__}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
