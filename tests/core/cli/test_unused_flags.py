"""Every flag does something, or a line says that it does not."""

import pytest
from tiny_parts import write_upscaler

import ltx2_core as ltx2
from ltx2_core.checkpoint.upscaler import BUILT_IN
from ltx2_core.cli.arguments import request_of
from ltx2_core.cli.parser import build_parser, parse
from ltx2_core.errors import LTX2Error, SettingError
from ltx2_core.fields import Choice, Number, Seed, Whole, settings_of
from ltx2_core.settings import Request

# Flags of which the request knows nothing: where files are, and what models_of reads.
ELSEWHERE = {"prompt", "output", "overwrite", "save-latent", "metadata", "checkpoint", "text-encoder", "distilled"}


@pytest.fixture
def asked():
    """What flags become: a function from words to a request."""
    miniature = ltx2.open_models("miniature")

    def read(*words) -> Request:
        return request_of(parse(["generate", "--output", "x.mp4", "--prompt", "x", *words]), miniature)

    return read


def other_than_usual(flag: str) -> list[str]:
    """A flag with a value that is not its default; "1" where it says nothing of its values."""
    command = build_parser()[1]["generate"]
    made = {made[2:]: (owner, name) for owner, names in command.settings.items() for name, made in names.items()}
    owner, name = made.get(flag, made.get(flag.removeprefix("video-").removeprefix("audio-"), (None, None)))
    look, default = (settings_of(owner)[name].look, settings_of(owner)[name].default) if owner else (None, None)
    if command.forms[flag] in ("switch", "yes"):
        return [f"--no-{flag}" if default is True else f"--{flag}"]
    if isinstance(look, Choice):
        return [f"--{flag}", next(word for word in look.words if word != default).replace(" ", "-")]
    if isinstance(look, Number | Whole | Seed):
        return [f"--{flag}={next(value for value in (look.most, look.least) if value != default)}"]
    return [f"--{flag}", "1"]


def test_no_flag_is_left_unused_without_a_word(asked, caplog):
    plain, silent = asked(), []
    for flag in {*build_parser()[1]["generate"].forms} - ELSEWHERE:
        caplog.clear()
        try:
            changed = asked(*other_than_usual(flag)) != plain
        except LTX2Error:
            continue
        if not changed and "is not used" not in caplog.text:
            silent.append(flag)
    assert silent == []


def test_an_upscaler_of_the_other_axis_is_refused(asked, tmp_path):
    """It would enlarge what nobody asked for, and leave what was asked for as it is."""
    with pytest.raises(SettingError, match=r"no --temporal-upscaler: it leaves time as it is\. Give it as --upscaler"):
        asked("--temporal-upscaler", str(BUILT_IN))
    temporal = write_upscaler(tmp_path, {"spatial_upsample": False, "temporal_upsample": True})
    with pytest.raises(SettingError, match="is no --upscaler: it leaves space as it is"):
        asked("--upscaler", str(temporal))
