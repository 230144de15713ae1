"""Windows, as far as it can be pretended: files that others have open, paths, JSON, RAM, pipes, Ctrl+Break."""

import ctypes
import errno
import io
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_parts
import torch

from ltx2_core.checkpoint.write import check_new
from ltx2_core.cli import main
from ltx2_core.cli.commands import COMMANDS
from ltx2_core.cli.syntax import parse_picture
from ltx2_core.conditioning import Timeline
from ltx2_core.disk_cache import DiskCache
from ltx2_core.errors import MissingFileError, SettingError, UnreadableFileError
from ltx2_core.errors.atomic import complete_file, remove_unfinished, whole_or_nothing
from ltx2_core.errors.files import not_written
from ltx2_core.media import check_target, open_local
from ltx2_core.memory.machine import GIB
from ltx2_core.memory.ram import most_ram, ram


@pytest.fixture
def unlink(monkeypatch):
    """Refuses to remove files, as Windows does while a scanner reads them: as often as ``unlink.append`` was called."""
    remove, refusals = os.unlink, list[None]()

    def refuse(path, *more, **named):
        if refusals:
            refusals.pop()
            raise PermissionError(13, "in use")
        remove(path, *more, **named)

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return refusals


def test_a_scanner_that_reads_the_empty_file_which_tries_a_place_is_waited_for(windows, unlink, tmp_path):
    unlink += [None] * 3
    check_target(tmp_path / "clip.mp4")
    assert not unlink and not [*tmp_path.iterdir()]


def test_a_place_where_nothing_can_be_removed_is_none_for_a_clip(unlink, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    unlink += [None] * 2
    with pytest.raises(UnreadableFileError, match="in use"):
        check_target(tmp_path / "clip.mp4")


def test_what_is_unfinished_is_removed_when_it_is_let_go(windows, unlink, tmp_path):
    (path := tmp_path / "x").touch()
    unlink += [None] * 3
    remove_unfinished(path)
    assert not path.exists()
    remove_unfinished(path)  # nothing is there


def test_a_table_that_another_program_keeps_is_told(windows, tmp_path, monkeypatch):
    (tmp_path / "clips.csv").write_text("prompt")

    def refuse(raw):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("ltx2_core.media.local.BufferedReader", refuse)
    with pytest.raises(UnreadableFileError, match="another program"):
        open_local(tmp_path / "clips.csv")


@pytest.mark.parametrize("name, said", [("https://a.org/b?c", "is an address"), ("what?.png", r"no file what\?\.png")])
def test_what_can_be_no_file_on_windows_is_no_file(windows, monkeypatch, name, said):
    def look(path):
        error = OSError(errno.EINVAL, "The name is not correct")
        error.winerror = 123
        raise error

    monkeypatch.setattr(os, "stat", look)
    with pytest.raises(MissingFileError, match=said):
        open_local(name)


def test_a_path_of_windows_in_json_is_told_how_it_is_written():
    with pytest.raises(SettingError, match=r"each \\ of a path twice"):
        Timeline.parse(r'{"pictures": [{"file": "C:\Users\anna.png"}]}')
    with pytest.raises(MissingFileError, match=r"each \\ of a path twice"):
        open_local(parse_picture("0:C:\new\boat.png:0.8")[0])


def test_what_ended_a_file_is_told_though_its_remains_cannot_go(windows, unlink, tmp_path, monkeypatch):
    unlink += [None] * 10**6
    monkeypatch.setattr(time, "monotonic", iter(range(100)).__next__)
    for begun in (whole_or_nothing, complete_file):
        with pytest.raises(ZeroDivisionError), begun(tmp_path / "clip.mp4") as unfinished:
            if begun is whole_or_nothing:
                unfinished.write_bytes(b"1")
            raise ZeroDivisionError


def test_a_cache_is_no_failure_though_others_read_what_should_go(windows, unlink, tmp_path, caplog):
    cache = DiskCache(tmp_path, "x", limit_bytes=1000)
    cache.keep("a", a=torch.zeros(200))
    unlink += [None] * 10
    cache.keep("b", b=torch.ones(200))
    assert cache.find("b") is not None and "Nothing is kept" not in caplog.text


def test_ram_that_windows_cannot_promise_is_not_available(windows, monkeypatch):
    """Free RAM is refused where all that page files and RAM hold together has been promised to programs."""
    told = [64 * GIB, 40 * GIB, 72 * GIB, 0]  # RAM, what is free of it, all that can be promised, what is left of that

    def fill(status):
        status._obj[1:5] = told

    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=SimpleNamespace(GlobalMemoryStatusEx=fill)), False)
    for left, available in ((22 * GIB, 22 * GIB), (60 * GIB, 40 * GIB)):
        told[3] = left
        assert ram() == (64 * GIB, available)


def test_windows_says_how_much_ram_a_process_took(windows, monkeypatch):
    def fill(process, counters, size):
        assert size == ctypes.sizeof(counters._obj) == 72
        counters._obj[1] = 3 * GIB

    monkeypatch.setattr(
        ctypes, "windll", SimpleNamespace(kernel32=SimpleNamespace(K32GetProcessMemoryInfo=fill)), False
    )
    assert most_ram() == 3 * GIB


def test_a_path_that_is_too_long_for_windows_is_called_that(windows, tmp_path):
    missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    assert "long paths" in str(not_written(tmp_path / ("x" * 240) / "clip.mp4", missing))
    assert "long paths" not in str(not_written(tmp_path / "clip.mp4", missing))


def test_a_folder_whose_name_cannot_be_is_told_before_any_work(windows, tmp_path, monkeypatch):
    """Path.exists takes it for one that is not there."""
    stat = os.stat

    def look(path, *more, **named):
        if len(Path(path).name) > 255:
            raise OSError(errno.EINVAL, "The name is not correct")
        return stat(path, *more, **named)

    monkeypatch.setattr(os, "stat", look)
    monkeypatch.setattr(Path, "exists", os.path.exists)
    with pytest.raises(SettingError, match="not correct"):
        check_target(tmp_path / "new" / ("x" * 256) / "clip.mp4")


@pytest.mark.parametrize(
    "words",
    [
        "tiny con", "convert a nul.safetensors --format fp8", "lora shrink a aux.safetensors", "compare a b con.mp4",
        "sign a nul.mp4", "generate --prompt x --output a.mp4 --resume what?", "batch --prompt x --output con",
    ],
)  # fmt: skip
def test_no_command_writes_to_a_name_that_windows_keeps(windows, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2 and not [*tmp_path.iterdir()]
    assert "no name on Windows" in capsys.readouterr().err


def test_a_new_file_of_weights_has_a_name_that_windows_takes(windows, tmp_path):
    with pytest.raises(SettingError, match="no name on Windows"):
        check_new(tmp_path / "nul.safetensors", tmp_path / "a.safetensors", overwrite=True)


def test_a_reader_that_has_gone_is_known_by_what_windows_says(windows, monkeypatch, capsys):
    class Gone(io.RawIOBase):
        def writable(self):
            return True

        def write(self, content):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setitem(COMMANDS, "inspect", lambda options: print("x", flush=True))
    monkeypatch.setattr("ltx2_core.cli._silence_output", lambda: None)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Gone())))
    assert main(["inspect", "x"]) == 1 and capsys.readouterr().err == ""


def test_without_a_console_all_letters_are_lost_alike(monkeypatch):
    monkeypatch.setitem(COMMANDS, "inspect", lambda options: print("\udcff \u5bcc"))
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["inspect", "x"]) == 0


def test_ctrl_and_break_end_work_on_windows_tidily(monkeypatch, capsys):
    number = getattr(signal, "SIGBREAK", None) or signal.SIGUSR1
    monkeypatch.setattr(signal, "SIGBREAK", number, raising=False)
    monkeypatch.setitem(COMMANDS, "inspect", lambda options: signal.raise_signal(number))
    before = signal.signal(number, lambda *_: None)
    try:
        assert main(["inspect", "x"]) == 128 + number and "nothing half-written" in capsys.readouterr().err
    finally:
        signal.signal(number, before)


def test_a_whole_model_in_a_folder_for_a_moment_is_let_go_before_that_goes(monkeypatch, tmp_path):
    """Windows keeps folders with a file that is mapped."""

    class Moment(tempfile.TemporaryDirectory):
        def __exit__(self, *error):
            maps = Path("/proc/self/maps")
            assert not maps.exists() or self.name not in maps.read_text()
            super().__exit__(*error)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", Moment)
    assert all(each.exists() for each in tiny_parts.write_split(tmp_path))
