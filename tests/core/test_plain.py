"""What comes from files and workflows is shown as plain text, wherever a message quotes it."""

import logging
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import pytest

from ltx2_core.checkpoint.listed import check_inside, path_inside
from ltx2_core.errors import (
    CheckpointError,
    MissingFileError,
    SettingError,
    UnreadableFileError,
    counted,
    for_page,
    page_text,
    plain_record,
    plain_text,
)

JS = Path(__file__).parents[2] / "js"

# As the page of older front ends does: addresses become links, and the result is HTML.
LINK = re.compile(r"((https?|ftp|file)://[-A-Z0-9+&@#/%?=~_|!:,.;]*[-A-Z0-9+&@#/%=~_|])|(\bwww\.[\S]+)", re.IGNORECASE)

FOREIGN = [
    "<img src=x onerror=alert(1)>.lora_A.weight",
    "<script>alert(1)</script>",
    "</span><svg/onload=alert(1)>",
    'www."onmouseover="alert(1)',
    'WWW."onmouseover="alert(1)',
    "https://example.org/x",
    "&lt;img src=x onerror=alert(1)&gt;",
    "![x](//example.org/x.png) [x](javascript:alert(1)) [a]: //example.org",
]


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, attrs))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", FOREIGN)
def test_a_page_finds_nothing_but_letters_in_a_name(name):
    shown, page = page_text(f"lora.safetensors lacks {name}: download it again."), Elements()
    page.feed(LINK.sub(r'<a href="\1\3">\1\3</a>', shown))
    assert page.found == [] and page.text == shown
    assert "](" not in shown and "]:" not in shown


def test_sentences_of_ours_stay_as_they_are():
    ours = "frames is 32; it must be 8 k + 1, for example 33.\n  fits LTX-2.3  1,024 of 1,024 layers (50 %), 'auto'"
    assert page_text(ours) == ours
    assert plain_text('a "quoted" <name> & more') == 'a "quoted" <name> & more'


@pytest.mark.parametrize(
    "sign", ["\x1b[2J", "\r", "\x00", "\x07", "\u202e", "\u2066", "\u2028", "\u200b", "\udcff", "\ud800"]
)
def test_what_cannot_be_seen_or_sent_becomes_a_mark(sign):
    shown = plain_text(f"a{sign}b")
    assert shown.encode("utf-8") and shown == "a\ufffd" + sign[1:] + "b"


def test_letters_of_all_scripts_stay():
    text = "\u0434\u043e\u043c \u5bb6 \u0928\u092e\u0938\u094d\u200d\u0924\u0947 \U0001f469\u200d\U0001f680\t\n\u00e9"
    assert plain_text(text) == text


def test_no_name_and_no_text_is_without_an_end():
    assert len(plain_text("x" * 10**6)) < 210
    assert len(plain_text("x " * 10**6)) < 2100
    assert len(plain_text("x\n" * 10**6)) < 1100


def test_errors_of_a_node_and_their_causes_are_plain():
    def execute(owner, **values):
        try:
            raise FileNotFoundError(2, "No such file", "<b>\udcff")
        except FileNotFoundError as error:
            raise MissingFileError("There is no <b>\udcff.") from error

    with pytest.raises(MissingFileError) as raised:
        for_page(execute, lambda values: None)(object)
    cause = raised.value.__cause__
    for text in (str(raised.value), str(cause)):
        assert "<" not in text and text.encode()


def test_errors_of_pyav_whose_name_cannot_be_changed_are_plain():
    def execute(owner, **values):
        try:
            raise av.error.FileNotFoundError(28, "No space left on device", "<b>.mp4")
        except OSError as error:
            raise UnreadableFileError("clip.mp4 cannot be written.") from error

    with pytest.raises(UnreadableFileError, match=r"^clip\.mp4 cannot be written\.$") as raised:
        for_page(execute, lambda values: None)(object)
    assert "<" not in str(raised.value.__cause__)


def test_what_a_node_checks_first_and_what_it_returns_is_plain():
    class Output:
        args = ("<b>", 1)

    def refuse(values):
        raise CheckpointError(f"<i> is {values['x']}")

    assert for_page(lambda owner, **values: Output(), lambda values: None)(object).args == ("\u2039b\u203a", 1)
    with pytest.raises(CheckpointError, match="\u2039i\u203a is 1"):
        for_page(lambda owner, **values: Output(), refuse)(object, x=1)


def test_a_log_record_is_plain():
    record = logging.LogRecord("x", logging.INFO, "", 1, "Opened %s", ("a\x1b[2Jb",), None)
    assert plain_record(record) and record.getMessage() == "Opened a\ufffd[2Jb"


MAKE_ELEMENTS = r"(inner|outer)HTML|insertAdjacent|createContextual|setHTML|document\.write|\beval\b|Function\("


def test_scripts_of_the_page_write_text_only():
    for script in JS.glob("*.js"):
        assert not re.search(MAKE_ELEMENTS, script.read_text()), script.name


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "a/../../x", "/etc/x", "C:\\x", "\\\\host\\x", "..\\x", "a\0b", "\udcff", "", " ", ".", 5],
)
def test_a_model_file_outside_the_model_folders_is_refused_with_the_reason(name):
    with pytest.raises(SettingError, match="only files in there are opened"):
        check_inside(name, "loras")


@pytest.mark.parametrize(
    "name",
    [
        "x.safetensors",
        "style/x.safetensors",
        "style\\x..y.safetensors",
        "\u5bb6.sft",
        "a\u00a0b \U0001f468\u200d\U0001f469.sft",
    ],
)
def test_a_model_file_inside_the_model_folders_is_taken(name):
    check_inside(name, "loras")


def test_a_file_is_found_by_the_separators_of_another_system_too(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").touch()
    assert path_inside(tmp_path, "sub/a.png").samefile(tmp_path / "sub" / "a.png")
    assert path_inside(tmp_path, "sub\\a.png").samefile(tmp_path / "sub" / "a.png")
    if os.sep == "/":  # where it is a letter, a file may have it in its name
        (tmp_path / "sub\\a.png").touch()
        assert path_inside(tmp_path, "sub\\a.png") == tmp_path / "sub\\a.png"


def test_another_machine_is_not_asked_for_a_file(tmp_path, monkeypatch):
    """Windows would log in there with the name of its user."""
    monkeypatch.setattr(os.path, "exists", lambda path: pytest.fail(f"asked for {path}"))
    for name in ("\\\\host\\share\\x.js", "//host/share/x.js"):
        with pytest.raises(SettingError, match="only files in there"):
            path_inside(tmp_path, name, "extensions")


def test_one_of_a_thing_is_told_as_one():
    assert [counted(each, "frame") for each in (0, 1, 1200)] == ["0 frames", "1 frame", "1,200 frames"]
