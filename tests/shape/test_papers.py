"""What the papers say exists: files, links, names in examples, headings that comments cite, and every node."""

import ast
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pack.help import inputs_in, outputs_in, page_of

ROOT = Path(__file__).parents[2]
FOLDERS = (".github", "benchmarks", "js", "ltx2_core", "nodes", "subgraphs", "tests", "workflows")

# Papers may be ahead of the tree by these: paths, and names as "module.name". Empty when the move is done.
COMING: set[str] = set()

# What a paper may name that lies elsewhere: in ComfyUI, in the official code, or in what people make.
ELSEWHERE = re.compile(
    r"models/|ComfyUI/|~/|\.venv/|output/|ltx_core/|ltx_pipelines/|ltx-core/|ltx-pipelines/|comfy/|comfy_extras/"
    r"|diffusers/|transformers/|peft/|preprocessor_config\.json|config\.json|tokenizer\.json|[A-Z]\w+/[A-Z]"
)
# Files of ltx-core and ltx-pipelines that pages of rooms give as their sources, by their bare names.
OFFICIAL = re.compile(
    r"(adaln|attention_strength_wrapper|audio_vae|base_encoder|blur_downsample|causal_conv_2d|"
    r"causality_axis|convolution|diffusion_steps|downsample|embeddings_connector|embeddings_processor|"
    r"encoder_configurator|feature_extractor|feed_forward|fp8_cast|fp8_scaled_mm|fuse_loras|gelu_approx|"
    r"guiders|item|keyframe_cond|latent_cond|mask_utils|modality|model_configurator|noisers|normalization|"
    r"ops|patchifiers|perturbations|pixel_shuffle|policy|primitives|reference_video_cond|registry|"
    r"res_block|resnet|schedulers|sd_ops|sft_loader|spatial_rational_resampler|text_projection|"
    r"timestep_embedding|tools|transformer|transformer_args|upsample|video_vae)[.]py"
)
FILE = re.compile(r"\.?[\w-][\w.-]*\.(py|md|json|toml|yml|yaml|js|cjs)")
PATH = re.compile(r"\.?[\w-][\w.-]*(/[\w.-]+)+/?")
LINK = re.compile(r"\[[^]]*\]\((?P<target>[^)\s]+)[^)]*\)")
CITATION = re.compile(r"(?P<page>[\w./]*README\.md)`*,\s*(?:#\s*)?\"(?P<title>[^\"]+)\"")
WORDS = 1300
UNREAD = re.compile(r"<img[^>]*>|<!--.*?-->|\||-{3,}")  # pictures, and what makes a table

RECORDED = json.loads((ROOT / "tests" / "pack" / "object_info.json").read_text())


def files() -> Iterator[Path]:
    """Every file of the repository that is not built or installed."""
    yield from (path for path in ROOT.iterdir() if path.is_file())
    for folder in FOLDERS:
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)


@cache
def names() -> frozenset[str]:
    """The bare names of all files that are in the tree or coming."""
    return frozenset(path.name for path in files()) | {Path(path).name for path in COMING}


PAPERS = sorted(str(path.relative_to(ROOT)) for path in files() if path.suffix == ".md" and "golden" not in path.parts)


def exists(path: Path) -> bool:
    """Whether a path is in the tree, or is coming."""
    inside = os.path.relpath(os.path.normpath(path), ROOT)
    return path.exists() or inside in COMING or any(each.startswith(f"{inside}/") for each in COMING)


def prose(text: str) -> str:
    """``text`` without blocks of code, whose files are the reader's."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def missing_paths(paper: Path, text: str) -> list[str]:
    """What stands in backticks, looks like a path, and is nowhere."""
    missing = []
    for word in re.findall(r"`([^`\s]+)`", prose(text)):
        if ELSEWHERE.match(word):
            continue
        if PATH.fullmatch(word):
            roots = (ROOT, paper.parent, ROOT / "ltx2_core")
            if not any(exists(root / word) for root in roots):
                missing.append(word)
        elif FILE.fullmatch(word) and word not in names() and not OFFICIAL.fullmatch(word):
            missing.append(word)
    return missing


def missing_links(paper: Path, text: str) -> list[str]:
    """Targets of relative links that are nowhere."""
    targets = (found["target"].partition("#")[0] for found in LINK.finditer(prose(text)))
    return [each for each in targets if each and ":" not in each and not exists(paper.parent / each)]


def offered(module: str) -> set[str] | None:
    """Every name at the top of a module of ours, read without importing it; None if there is no such module."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return None
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def missing_names(text: str) -> list[str]:
    """What the examples of a paper import from us, and we do not have."""
    missing = []
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ltx2_core"):
                known = offered(node.module) or set()
                wanted = {f"{node.module}.{alias.name}": alias.name for alias in node.names}
                missing += [full for full, name in wanted.items() if name not in known and full not in COMING]
    return missing


@pytest.mark.parametrize("name", PAPERS)
def test_what_a_paper_names_is_in_the_tree(name):
    paper = ROOT / name
    text = paper.read_text(encoding="utf-8")
    if paper.name == "CHANGELOG.md":
        text = re.sub(r"^### Removed$.*?(?=^## )", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not missing_paths(paper, text)
    assert not missing_links(paper, text)
    assert not missing_names(text)


@pytest.mark.parametrize("page", [name for name in PAPERS if name.startswith("ltx2_core/")])
def test_a_page_with_a_table_of_files_has_all_files_of_its_room(page):
    text, room = (ROOT / page).read_text(encoding="utf-8"), (ROOT / page).parent
    if re.search(r"^\|[^|]*`\w+\.py`", text, re.MULTILINE):
        assert not [path.name for path in room.glob("[!_]*.py") if f"`{path.name}`" not in text]


def test_every_heading_that_a_comment_cites_exists():
    missing = []
    for path in files():
        if path.suffix != ".py" or path == Path(__file__):
            continue
        for cited in CITATION.finditer(path.read_text(encoding="utf-8")):
            roots = [path.parent] if cited["page"] == "README.md" else [path.parent, ROOT, ROOT / "ltx2_core"]
            pages = [root / cited["page"] for root in roots]
            page = next((each for each in pages if each.is_file()), None)
            title = " ".join(re.sub(r"\n\s*#?", " ", cited["title"]).split())
            headings = [] if page is None else re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            if title not in headings:
                missing.append(f"{path.relative_to(ROOT)} cites {cited['page']}, {title!r}")
    assert not missing


def test_the_readme_is_read_in_ten_minutes():
    assert len(UNREAD.sub(" ", (ROOT / "README.md").read_text(encoding="utf-8")).split()) <= WORDS


def test_every_node_is_told_about_and_has_a_help_page():
    told = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "nodes/README.md"))
    for node in RECORDED:
        page = ROOT / "js" / "docs" / f"{node}.md"
        name = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# LTX-2 ").strip()
        assert node in told, node
        assert name in told, name


def names_of(lines: list[str]) -> list[str]:
    """The names in recorded lines such as "steps: INT = 20"."""
    return [line.partition(":")[0] for line in lines]


@pytest.mark.parametrize("node, recorded", RECORDED.items(), ids=RECORDED)
def test_a_help_page_has_every_input_and_every_output(node, recorded):
    page = page_of(node)
    assert sorted(inputs_in(page)) == sorted(names_of(recorded["required"] + recorded["optional"]))
    assert outputs_in(page) == names_of(recorded["outputs"])


def test_commands_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    for name in PAPERS:
        for target in re.findall(r"`make ([\w-]+)", (ROOT / name).read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE) or f"make {target}" in COMING, f"{name}: {target}"


def has_come(entry: str) -> bool:
    """Whether something that was awaited is here: a path, a target of make, or a name in a module."""
    if entry.startswith("make "):
        return bool(re.search(rf"^{entry[5:]}:", (ROOT / "Makefile").read_text(), re.MULTILINE))
    module, _, name = entry.rpartition(".")
    return (ROOT / entry).exists() or ("/" not in entry and name in (offered(module) or ()))


def test_what_has_come_is_no_longer_awaited():
    assert not sorted(filter(has_come, COMING)), "Take these out of COMING."
