"""A clip that is signed is whole, and says who signed it; what changes it shows; what fails leaves it as it was."""

import builtins
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from ltx2_core.cli import main
from ltx2_core.errors import MediaError, SettingError, UnreadableFileError
from ltx2_core.media import provenance, read_audio, read_tags, read_video, write_clip
from ltx2_core.media.notes import SOURCE_TAG, SOURCE_TYPE, mark_video
from ltx2_core.media.provenance import Identity, read_signature, sign_file

c2pa = pytest.importorskip("c2pa")
from certificates import write_identity  # noqa: E402

FRAMES = torch.rand(9, 64, 64, 3, generator=torch.Generator().manual_seed(0))
SOUND = torch.rand(2, 8001, generator=torch.Generator().manual_seed(1)) - 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("signed")


@pytest.fixture(scope="module")
def identity(folder):
    return Identity(*write_identity(folder))


@pytest.fixture
def clip(tmp_path):
    return written(tmp_path / "clip.mp4")


def written(path: Path) -> Path:
    return write_clip(path, [FRAMES], Fraction(24), SOUND, 24_000, metadata={"ltx2": '{"settings": {"seed": "7"}}'})


def files_in(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


@pytest.mark.parametrize("name", ["clip.mp4", "clip.wav", "clip.flac", "frame.png"])
def test_the_librarys_own_reader_finds_what_was_signed(name, identity, tmp_path):
    source = written(tmp_path / name.removesuffix(".png"))
    source = source / "frame_00001.png" if source.is_dir() else source
    target = tmp_path / f"signed_{name}"
    assert sign_file(source, target, identity) == read_signature(target)
    with open(target, "rb") as file, c2pa.Reader(provenance.KINDS[target.suffix], file) as reader:
        assert reader.get_validation_state() == "Valid"
        manifest = reader.get_active_manifest()
    (action,) = manifest["assertions"][-1]["data"]["actions"]
    assert action["action"] == "c2pa.created" and action["digitalSourceType"] == SOURCE_TYPE
    assert manifest["claim_generator_info"][0]["name"] == "ltx2-av" and manifest["title"] == target.name
    found = read_signature(target)
    assert found.who == "Jane Doe (Test Studio)" and found.faults == () and not found.trusted and found.time == ""
    assert read_tags(target) == read_tags(source) and read_signature(source) is None


def test_frames_and_sound_stay_to_the_bit_also_where_a_clip_is_signed_in_place(clip, identity):
    before = [torch.cat([*read(clip)], dim) for read, dim in ((read_video, 0), (read_audio, -1))]
    assert sign_file(clip, clip, identity, overwrite=True).faults == ()
    after = [torch.cat([*read(clip)], dim) for read, dim in ((read_video, 0), (read_audio, -1))]
    assert all(map(torch.equal, before, after)) and list(files_in(clip.parent)) == ["clip.mp4"]


@pytest.mark.parametrize("place", [b"mdat", b"moov", b"ltx2", b"trainedAlgorithmicMedia", b"Jane Doe"])
def test_one_changed_byte_is_found(place, clip, identity, capsys):
    sign_file(clip, clip, identity, overwrite=True)
    content = bytearray(clip.read_bytes())
    content[content.rindex(place) + len(place) + 20 * (place == b"mdat")] ^= 1
    clip.write_bytes(content)
    assert main(["check", str(clip)]) == 2
    said = capsys.readouterr()
    assert "clip.mp4" in said.err and (place != b"mdat" or "assertion.bmffHash.mismatch: " in said.out)


@pytest.mark.parametrize("kind", ["PS256", "ED25519"])
def test_other_kinds_of_keys_sign_too(kind, clip, tmp_path):
    identity = Identity(*write_identity(tmp_path / "own", kind))
    assert sign_file(clip, clip, identity, overwrite=True).faults == ()


def failing(folder: Path, identity: Identity) -> dict[str, tuple[Identity, str]]:
    """What cannot sign, and a fact of the sentence."""
    over, other, web = (
        Identity(*write_identity(folder / name, days=days, signs=signs))
        for name, days, signs in (("over", -5, True), ("other", 30, True), ("web", 30, False))
    )
    (folder / "text.pem").write_text("no certificate")
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n")
    return {
        "over": (over, "valid from"),
        "other": (Identity(identity.certificate, other.key), "is not the key"),
        "swapped": (Identity(identity.key, identity.certificate), "holds no certificate"),
        "web": (web, "cannot be signed with certificate.pem"),
        "text": (Identity(folder / "text.pem", identity.key), "no PEM file"),
        "broken": (Identity(folder / "broken.pem", identity.key), "holds no certificate"),
        "none": (Identity(folder / "none.pem", identity.key), "There is no file none.pem"),
        "unreachable": (Identity(identity.certificate, identity.key, "http://127.0.0.1:9"), "timestamp"),
    }


def test_what_cannot_sign_leaves_the_clip_as_it_was(clip, identity, tmp_path):
    for name, (each, fact) in failing(tmp_path / "own", identity).items():
        before = files_in(clip.parent)
        with pytest.raises((SettingError, MediaError, FileNotFoundError), match=fact):
            sign_file(clip, clip, each, overwrite=True)
        assert files_in(clip.parent) == before, name
    with pytest.raises(UnreadableFileError, match="name too long"):
        sign_file(clip, clip.with_name(f"{'x' * 300}.mp4"), identity)


def test_the_command_line_signs_and_says_who_did(clip, identity, monkeypatch, capsys):
    words = ["sign", str(clip), str(clip.with_name("signed.mp4"))]
    assert main(words) == 2 and "LTX2_C2PA_CERTIFICATE" in capsys.readouterr().err
    assert main([*words, "--certificate", str(identity.certificate)]) == 2
    assert "LTX2_C2PA_KEY" in capsys.readouterr().err and not clip.with_name("signed.mp4").exists()
    monkeypatch.setenv(provenance.CERTIFICATE, str(identity.certificate))
    monkeypatch.setenv(provenance.KEY, str(identity.key))
    assert main(words) == 0 and main(words) == 2 and main([*words, "--overwrite"]) == 0
    capsys.readouterr()
    assert main(["check", *words[1:]]) == 0
    first, second = capsys.readouterr().out.split("signed.mp4: it is whole")
    assert "clip.mp4: it is not signed" in first and "seed" in first
    assert all(fact in second for fact in ("Jane Doe (Test Studio)", "trainedAlgorithmicMedia", "ltx2-av", "nobody"))
    assert main(["sign", words[2], str(clip.with_name("twice.mp4"))]) == 2
    assert "signed already, by Jane Doe" in capsys.readouterr().err


def test_who_signed_is_believed_by_those_who_are_named(clip, identity, tmp_path, monkeypatch, capsys):
    sign_file(clip, clip, identity, overwrite=True)
    root, other = (tmp_path / name for name in ("root.pem", "other.pem"))
    strange, _ = write_identity(tmp_path / "strange")
    for file, certificate in ((root, identity.certificate), (other, strange)):
        file.write_text("-----BEGIN" + certificate.read_text().split("-----BEGIN")[-1])  # the root alone
    assert read_signature(clip, root).trusted and not read_signature(clip, other).trusted
    assert read_signature(clip, other).faults == ()
    assert main(["check", str(clip), "--anchors", str(root)]) == 0
    assert "that is believed here" in capsys.readouterr().out
    monkeypatch.setenv(provenance.ANCHORS, str(root))
    assert main(["check", str(clip)]) == 0 and "that is believed here" in capsys.readouterr().out
    assert main(["check", str(clip), "--anchors", str(identity.key)]) == 2
    assert "key.pem holds no certificates" in capsys.readouterr().err
    monkeypatch.setenv(provenance.ANCHORS, str(tmp_path / "none.pem"))
    assert main(["check", str(clip)]) == 2 and "There is no file none.pem" in capsys.readouterr().err


def test_only_clips_that_a_model_made_are_signed(clip, identity, tmp_path):
    content = clip.read_bytes()
    clip.write_bytes(content.replace(b"trainedAlgorithmicMedia", b"digitalCapture_________"))
    with pytest.raises(MediaError, match="does not say that a model made it"):
        sign_file(clip, clip, identity, overwrite=True)
    for name, fact in (("clip.mov", "of the kind .mov"), ("frames", "without a suffix"), ("none.mp4", "no file none")):
        with pytest.raises((SettingError, FileNotFoundError), match=fact):
            sign_file(tmp_path / name, tmp_path / name, identity)
    with pytest.raises(SettingError, match="another kind"):
        sign_file(clip, tmp_path / "clip.wav", identity)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError, match=r"text\.mp4"):
        read_signature(tmp_path / "text.mp4")


def test_a_mark_of_ours_in_files_of_other_writers_is_found(clip, identity):
    content = clip.read_bytes()
    clip.write_bytes(content.replace(b"trainedAlgorithmicMedia", b"digitalCapture_________"))
    plain = clip.read_bytes()[: content.rindex(b"uuid") - 4].replace(b"digital_source_type", b"digital_source_xxxx")
    clip.write_bytes(plain)
    assert SOURCE_TAG not in read_tags(clip)
    mark_video(clip)
    assert read_tags(clip)[SOURCE_TAG] == SOURCE_TYPE
    assert sign_file(clip, clip, identity, overwrite=True).faults == ()


def test_without_the_package_it_is_one_sentence(clip, identity, monkeypatch):
    found = builtins.__import__

    def without(name, *args, **more):
        if name == "c2pa":
            raise ImportError(name)
        return found(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for call in (lambda: sign_file(clip, clip, identity, overwrite=True), lambda: read_signature(clip)):
        with pytest.raises(SettingError, match="pip install"):
            call()
