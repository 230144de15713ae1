"""What differs from system to system: Windows, as far as it can be pretended, containers, consoles of few letters."""

import ctypes
import errno
import io
import os
import re
import sys
from pathlib import Path
from shutil import copy
from types import SimpleNamespace

import pytest
import torch
from devices import Pins
from safetensors.torch import save_file

import ltx2_core as ltx2
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.checkpoint.folders import weight_files
from ltx2_core.checkpoint.upscaler import BUILT_IN
from ltx2_core.checkpoint.write import safetensors_layout, write_tensors
from ltx2_core.cli import main
from ltx2_core.cli.commands import COMMANDS
from ltx2_core.cli.files import digest_of
from ltx2_core.cli.lines import generate_command
from ltx2_core.cli.progress import Bars
from ltx2_core.cli.syntax import file_path, parse_character, parse_picture
from ltx2_core.conditioning.light import FILE_SPACES
from ltx2_core.disk_cache.mapped import mapped_files
from ltx2_core.errors import SettingError, UnreadableFileError
from ltx2_core.errors.atomic import clear_unfinished, complete_file, replace_file, whole_or_nothing
from ltx2_core.errors.files import not_written
from ltx2_core.fields import check_output_name
from ltx2_core.media import check_target
from ltx2_core.media.exr import ExrFrames
from ltx2_core.memory import machine as machines
from ltx2_core.memory.machine import DISK, GIB, MARGIN, OCCUPIED, WINDOWS_MARGIN, this_machine, usable
from ltx2_core.memory.pinned import PinnedMemory
from ltx2_core.memory.ram import pin_limit, pinnable, ram
from ltx2_core.memory.unit import Unit
from ltx2_core.pipeline.engines import local as local_engine
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.settings import Resources

# --------------------------------------------------------------------------------------------------------- containers


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Writes files as Linux shows them to a program in a container."""
    monkeypatch.setattr(sys, "platform", "linux")

    def write(**files):
        for name, content in {"proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}".rstrip())
        return tmp_path

    return write


def test_without_a_container_the_machine_counts(tree):
    assert ram(tree()) == (8 * GIB, 6 * GIB)
    assert ram(tree(**{"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"})) == (8 * GIB, 6 * GIB)


def test_limits_of_groups_of_version_2_are_those_of_the_program(tree):
    group, above = "sys/fs/cgroup/a/b", "sys/fs/cgroup/a"
    files = {
        "proc/self/cgroup": "0::/a/b",
        f"{group}/memory.max": "max", f"{group}/memory.current": GIB,
        f"{above}/memory.max": 4 * GIB, f"{above}/memory.current": 3 * GIB,
        f"{above}/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}",
    }  # fmt: skip
    assert ram(tree(**files)) == (4 * GIB, 3 * GIB)
    assert ram(tree(**files | {f"{group}/memory.max": 2 * GIB})) == (2 * GIB, GIB)


def test_limits_of_groups_of_version_1_are_those_of_the_program(tree):
    mount = "sys/fs/cgroup/memory"  # the group itself, as a container sees it
    files = {
        "proc/self/cgroup": "12:cpu,cpuacct:/x\n5:memory:/docker/123",
        f"{mount}/memory.limit_in_bytes": 4 * GIB, f"{mount}/memory.usage_in_bytes": 5 * GIB // 2,
        f"{mount}/memory.stat": f"total_inactive_file {GIB // 2}",
    }  # fmt: skip
    assert ram(tree(**files)) == (4 * GIB, 2 * GIB)
    assert ram(tree(**files | {f"{mount}/memory.limit_in_bytes": 2**63 - 4096})) == (8 * GIB, 6 * GIB)


# -------------------------------------------------------------------------------------------------------------- macOS


@pytest.fixture
def macos(monkeypatch):
    """A Mac of 16 GB in pages of 16 KB, which tells what it does with them unless ``refused``."""
    sizes = {"SC_PHYS_PAGES": 2**20, "SC_PAGE_SIZE": 2**14}
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)

    class System:
        refused, free, idle = 0, 2**16, 3 * 2**16

        def mach_host_self(self):
            return 1539

        def host_statistics64(self, host, kind, numbers, count):
            assert (host, kind, count._obj.value) == (1539, 4, 38)  # the struct has 152 bytes
            active, wired = 2**18, 2**17
            numbers[:4] = self.free, active, self.idle, wired
            return self.refused

    system = System()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: system)
    return system


def test_macos_counts_what_is_free_and_what_rests(macos):
    assert ram() == (16 * GIB, 4 * GIB)
    macos.free -= 2**15  # half a gigabyte is taken, and no longer there for others
    assert ram() == (16 * GIB, 7 * GIB // 2)


def test_a_mac_that_does_not_tell_has_half_of_its_ram(macos):
    macos.refused = 5
    assert ram() == (16 * GIB, 8 * GIB)


# ------------------------------------------------------------------------------------------------------------ Windows


def test_windows_pins_less(windows):
    assert pin_limit(100) == 40 and pinnable(100 * GIB, 90 * GIB) == 40 * GIB


def test_other_systems_pin_half(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert pin_limit(100) == 50


@pytest.mark.parametrize("system, margin", [("win32", WINDOWS_MARGIN), ("linux", MARGIN)])
def test_more_of_a_card_is_left_to_windows(monkeypatch, system, margin):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(is_integrated=0))
    assert usable(torch.device("cuda")) == 7 * GIB - margin and WINDOWS_MARGIN >= 6 * 10**8


@pytest.mark.parametrize("refusal", [None, RuntimeError, AttributeError])
def test_an_intel_card_has_memory_of_its_own(monkeypatch, refusal):
    """Some of their drivers do not say what is free: then all but what this process and the system have."""
    monkeypatch.setattr(sys, "platform", "linux")

    def tell(device):
        if refusal is not None:
            raise refusal("The device doesn't support querying the available free memory.")
        return 5 * GIB, 16 * GIB

    facts = {"memory_reserved": 3 * GIB, "memory_allocated": GIB}
    facts["get_device_properties"] = SimpleNamespace(total_memory=16 * GIB)
    for name, value in facts.items():
        monkeypatch.setattr(torch.xpu, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.xpu, "mem_get_info", tell)
    free = 5 * GIB if refusal is None else 13 * GIB - OCCUPIED
    assert usable(torch.device("xpu")) == free + 2 * GIB - MARGIN


def test_what_comes_from_the_memory_of_windows_is_not_the_rate_of_a_disk(windows, tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "_PROBE_SECONDS", 0.005)
    monkeypatch.setattr(machines, "ram", lambda: (0, 0))
    model = tmp_path / "model.safetensors"
    model.write_bytes(bytes(2**26))
    assert 0 < this_machine(torch.device("cpu"), model).disk <= DISK


def test_weights_are_read_from_their_file_on_windows_too(windows, tmp_path):
    save_file({"a": torch.randn(30, 50), "b": torch.randn(7)}, tmp_path / "weights.safetensors")
    file = TensorFile(tmp_path / "weights.safetensors")
    unit = Unit([file.get("a"), file.get("b")], mapped_files())
    unit.read(span := torch.empty(unit.nbytes, dtype=torch.uint8))
    with open(file.path, "rb+") as stream:  # a read through the mapping would be of what was there
        stream.seek(file.entries["a"].start)
        stream.write(bytes(8))
    unit.read(again := torch.empty(unit.nbytes, dtype=torch.uint8))
    assert torch.equal(again[8 : 30 * 200], span[8 : 30 * 200]) and not again[:8].any()


@pytest.mark.parametrize("attempts, is_there", [(0, True), (2, True), (2, False)])
def test_a_file_that_somebody_reads_for_a_moment_is_replaced(windows, tmp_path, monkeypatch, attempts, is_there):
    """The old one, or the new one, at which a scanner looks."""
    replace, left = os.replace, [None] * attempts
    (new := tmp_path / "new").write_text("new")
    target = tmp_path / "target"
    if is_there:
        target.write_text("old")

    def refuse(source, target):
        if left:
            left.pop()
            raise PermissionError(13, "in use")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    replace_file(new, target)
    assert target.read_text() == "new" and not new.exists()


def test_a_file_that_stays_open_is_told_in_a_sentence(windows, tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(13, "in use")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr("ltx2_core.errors.atomic._PATIENCE", 0.1)
    (target := tmp_path / "clip.mp4").write_text("old")
    with pytest.raises(UnreadableFileError, match=r"clip\.mp4 cannot be replaced"):
        replace_file(tmp_path / "new", target)
    target.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write, whatever a file says
    with pytest.raises(UnreadableFileError, match=r"clip\.mp4 is read-only"):
        replace_file(tmp_path / "new", target)
    with pytest.raises(PermissionError):  # nobody can have a file open that is not there
        replace_file(tmp_path / "new", tmp_path / "other")


@pytest.mark.parametrize(
    "name",
    [
        "con.mp4",
        "NUL",
        "aux .tar.mp4",
        "lpt1",
        "conin$",
        "COM\u00b9.mp4",
        "what?.mp4",
        "clip:1.mp4",
        "x|y/clip.mp4",
        "ends.",
        "no /a.mp4",
        "a*",
    ],
)
def test_names_that_windows_keeps_for_itself_are_refused_there_before_any_work(windows, tmp_path, name):
    with pytest.raises(SettingError, match="Windows"):
        check_target(tmp_path / name)
    with pytest.raises(SettingError, match="Windows"):
        check_output_name(name)


@pytest.mark.parametrize("name", ["console.mp4", "com10.mp4", "a.b c.mp4", "\u65e5.mp4", "new/clip.mp4"])
def test_other_names_are_taken_on_windows_and_all_elsewhere(windows, tmp_path, monkeypatch, name):
    check_target(tmp_path / name)
    monkeypatch.setattr(sys, "platform", "linux")
    check_target(tmp_path / "aux.mp4")
    assert not [*tmp_path.iterdir()]


def test_a_drive_that_is_not_there_is_told_before_any_work(windows, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(UnreadableFileError, match=r"clip\.mp4 cannot be written.*another folder"):
        check_target(tmp_path / "clip.mp4")
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    monkeypatch.setattr(Path, "mkdir", refuse_folders)
    with pytest.raises(UnreadableFileError, match=r"x\.safetensors cannot be written.*another folder"):
        write_tensors(tmp_path / "x.safetensors", safetensors_layout({}, {}), [])


def refuse_folders(path, **_):
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


# ------------------------------------------------------------------------------------------------------- names of files


def test_large_letters_at_the_end_of_a_name_are_as_good(tmp_path):
    """ComfyUI lists such files, too."""
    save_file({"a": torch.zeros(1)}, tmp_path / "Model.SAFETENSORS")
    save_file({"b": torch.zeros(1)}, tmp_path / "other.Safetensors")
    (tmp_path / "._Model.SAFETENSORS").write_bytes(b"\0\5\x16\7")  # as macOS leaves them on foreign disks
    assert [each.name for each in weight_files(tmp_path, "weights")] == ["Model.SAFETENSORS", "other.Safetensors"]


def test_what_macos_leaves_beside_frames_is_no_frame(tmp_path):
    for name in ("frame_1.EXR", "frame_0.exr"):
        (tmp_path / name).touch()
        (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7")
    assert [each.name for each in ExrFrames(tmp_path, FILE_SPACES["ACEScg"]).files] == ["frame_0.exr", "frame_1.EXR"]


def test_the_home_of_a_user_is_meant_where_shells_leave_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv("USERPROFILE", "/home/anna")
    assert file_path("~/clip.mp4") == Path("/home/anna/clip.mp4")
    assert parse_picture("-1:~/cat.png:0.8")[0] == "/home/anna/cat.png"
    assert parse_character("~/anna.png:~/anna.wav")[0] == [Path("/home/anna/anna.png"), Path("/home/anna/anna.wav")]
    assert file_path("a~/b") == Path("a~/b")
    assert file_path(".") == Path.cwd() and file_path("..") == Path.cwd().parent  # which sentences can call by a name


@pytest.mark.parametrize(
    "words",
    [
        "generate --prompt x --output -", "batch --prompt x --output -", "generate --prompt x --output a --resume -",
        "generate --prompt x --output a --save-latent -", "tiny -", "compare a b -", "convert a - --format fp8",
        "lora shrink a -", "sign a -", "generate --prompt x --output /dev/stdout", "compare a b /dev/fd/1",
    ],
)  # fmt: skip
def test_the_standard_output_is_no_file(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2 and not [*tmp_path.iterdir()]
    assert "standard output" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- what cannot be shown


class FullDisk(io.RawIOBase):
    """A log or a list on a disk that is full."""

    def writable(self):
        return True

    def write(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("lost", ["stderr", "stdout"])
def test_work_goes_on_though_what_it_says_cannot_be_written(monkeypatch, tmp_path, capsys, lost):
    done = []

    def work(options):
        for number in range(3):
            with Bars() as bars:
                bars.report("sampling", number, 3)
                bars.say("x" * 10_000)
            print(number, flush=True)
            done.append(number)

    monkeypatch.setitem(COMMANDS, "inspect", work)
    monkeypatch.setattr(sys, lost, io.TextIOWrapper(io.BufferedWriter(FullDisk())))
    status = main(["inspect", "x"])
    said = capsys.readouterr()
    assert done == [0, 1, 2] and status == (0 if lost == "stderr" else 2)
    assert said.out == "0\n1\n2\n" if lost == "stderr" else "No space left" in said.err.splitlines()[-1]


@pytest.mark.parametrize("name", ["x" * 251 + ".mp4", "\u65e5" * 83 + ".mp4"], ids=["letters", "three bytes each"])
def test_a_name_that_a_file_can_have_is_written_though_unfinished_ones_are_longer(tmp_path, name):
    with whole_or_nothing(tmp_path / name) as unfinished:
        unfinished.write_bytes(b"1")
    with complete_file(tmp_path / name) as file:
        file.write(b"2")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {name: b"2"}


@pytest.mark.parametrize(("listed", "hidden"), [(True, "{0}.0123abcd.partial"), (False, ".{1}.0123abcd.json")])
def test_what_a_killed_program_left_of_a_file_goes_when_it_is_written_again(tmp_path, listed, hidden):
    old, new, other = (tmp_path / hidden.format(f"{each}.json", each) for each in ("x [1]", "x [1]", "y"))
    new = new.with_name(new.name.replace("abcd", "ef01"))
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, 0))
    with whole_or_nothing(tmp_path / "x [1].json", listed=listed) as unfinished:
        unfinished.write_bytes(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["x [1].json", new.name, other.name])


def test_a_folder_is_listed_once_for_all_the_files_of_a_batch(tmp_path, monkeypatch):
    """A listing takes half a second where a folder has 100,000 files."""
    left = [tmp_path / f".clip_{number}.0123abcd.mp4" for number in range(20)]
    others = [tmp_path / ".clip_1.mp4", tmp_path / ".clip_1.0123abcd.png", tmp_path / ".other.0123abcd.mp4"]
    for path in (*left, *others):
        path.touch()
    listed, listing = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or listing(folder))
    clear_unfinished(tmp_path / f"clip_{number}.mp4" for number in range(20))
    assert listed == [tmp_path] and sorted(tmp_path.iterdir()) == sorted(others)


def test_what_was_left_of_a_long_name_is_cleared(tmp_path):
    target = tmp_path / f"{'x' * 251}.mp4"
    (tmp_path / f".{'x' * (255 - 14)}.0123abcd.mp4").touch()
    clear_unfinished([target])
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("number", "word"), [(errno.ENOSPC, "room"), (errno.EROFS, "may write"), (errno.ENAMETOOLONG, "another name")]
)
def test_the_way_out_belongs_to_what_the_system_refuses(number, word):
    text = str(not_written(Path("clip.mp4"), OSError(number, os.strerror(number))))
    assert "clip.mp4" in text and os.strerror(number) in text
    assert [each for each in ("room", "may write", "another name") if each in text] == [word]


@pytest.mark.parametrize("encoding", ["cp437", "cp1252", "ascii"])
def test_a_console_of_few_letters_shows_every_sentence(monkeypatch, tmp_path, encoding):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    name = "\u5bcc\u58eb \u0436 \u20ac.safetensors"
    copy(BUILT_IN, tmp_path / name)
    assert main(["inspect", str(tmp_path / name)]) == 0
    assert main(["inspect", str(tmp_path / f"no {name}")]) == 2
    for stream in streams:
        stream.flush()
        assert b"?" in stream.buffer.getvalue() and b".safetensors" in stream.buffer.getvalue()


def test_texts_are_read_and_written_in_utf_8_on_every_system():
    root = Path(ltx2.__file__).parent
    calls = re.compile(r"\.(?:read|write)_text\((?!.*encoding=).*")
    found = [(path.name, each) for path in root.rglob("*.py") for each in calls.findall(path.read_text("utf-8"))]
    assert found == []


def test_a_disk_that_fails_is_told_with_the_file(monkeypatch, tmp_path):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "style.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(UnreadableFileError, match=r"style\.safetensors cannot be read: Input/output error"):
        digest_of({"lora": [f"{tmp_path / 'style.safetensors'}:0.8"]}, generate_command())


# ------------------------------------------------------------------------------------------------ what we pin ourselves


@pytest.mark.slow
def test_a_second_plan_takes_what_is_pinned_already_for_its_own(monkeypatch):
    pins = Pins()
    memory = PinnedMemory(None, pins.pin, pins.unpin)
    monkeypatch.setattr(local_engine, "PinnedMemory", lambda limit: memory)
    monkeypatch.setattr(local_engine, "usable", lambda device: 8 * GIB)
    monkeypatch.setattr(local_engine, "current_machine", lambda *_: machines.CARDS["RTX 4070"])
    monkeypatch.setattr(local_engine, "ram", lambda: (64 * GIB, 20 * GIB - sum(pins.pinned.values())))
    monkeypatch.setattr("ltx2_core.memory.pinned.ram", lambda: (64 * GIB, 20 * GIB - sum(pins.pinned.values())))

    class Bare(LocalEngine):
        machine = machines.CARDS["RTX 4070"]

    engine = Bare(ltx2.open_models("miniature"), Resources(device="cpu"))
    first, unit = engine.room(), Unit([torch.zeros(2**26)])
    memory.admit([unit])
    memory.fill(unit)
    assert pins.pinned and memory.held == unit.nbytes
    assert engine.room() == first
