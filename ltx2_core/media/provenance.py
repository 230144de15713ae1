"""Who made this file, and is it whole: content credentials (C2PA), signed by its maker, and read by whoever.

They are written and read by c2pa-python, which the extra "provenance" installs. Source: C2PA, "Content Credentials",
technical specification 2.4.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import LTX2Error, MediaError, SettingError, one_line
from ..errors.atomic import check_free, whole_or_nothing
from .local import open_local
from .notes import SOURCE_TAG, SOURCE_TYPE, VERSION, describe_tags, read_tags

# Kinds of files that are signed, as C2PA calls them.
KINDS = {".mp4": "video/mp4", ".wav": "audio/wav", ".flac": "audio/flac", ".png": "image/png"}

# Where the environment says whose signature it is.
CERTIFICATE, KEY, TIMESTAMP = "LTX2_C2PA_CERTIFICATE", "LTX2_C2PA_KEY", "LTX2_C2PA_TIMESTAMP"
ANCHORS = "LTX2_C2PA_ANCHORS"  # and who is believed

LARGEST_PEM = 2**20  # bytes of a file of certificates or of a key
_INSTALL = 'Content credentials need c2pa-python: pip install "ltx2-av[provenance]", or pip install c2pa-python.'
# No file that is signed or read makes this machine ask another one.
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_UNKNOWN = "signingCredential.untrusted"  # which says nothing of the file


@dataclass(frozen=True)
class Identity:
    """Whose signature a file gets.

    Attributes:
        certificate: PEM of the certificate and those that lead to a root, the own one first.
        key: PEM of its private key, without password.
        timestamp: address of a timestamp authority (RFC 3161), which is asked; empty asks none.
    """

    certificate: Path
    key: Path
    timestamp: str = ""

    @classmethod
    def of(cls, certificate: Path | None = None, key: Path | None = None, timestamp: str | None = None) -> "Identity":
        """Return the one that is given, or what the environment says. Raises SettingError where neither says it."""
        paths = []
        for given, name, flag in ((certificate, CERTIFICATE, "--certificate"), (key, KEY, "--key")):
            if not (path := given or os.environ.get(name)):
                raise SettingError(
                    f"Nothing says whose signature it is: set {name} to the path of a PEM file, or give {flag} on the "
                    "command line."
                )
            paths.append(Path(path))
        return cls(paths[0], paths[1], os.environ.get(TIMESTAMP, "") if timestamp is None else timestamp)


class Signature(NamedTuple):
    """What a signed file says of who signed it.

    Attributes:
        name: of who signed, as the certificate says it.
        organisation: likewise; may be empty.
        time: when a timestamp authority saw it; empty without one.
        generator: the software that made it.
        source: the IPTC digital source type of what was created; empty where none is said.
        faults: what shows that it was changed, in the words of the library; none of a file that is whole.
        trusted: whether the certificate leads to one that the library trusts.
    """

    name: str
    organisation: str
    time: str
    generator: str
    source: str
    faults: tuple[str, ...]
    trusted: bool

    @property
    def who(self) -> str:
        """Who signed, in one line."""
        return f"{self.name} ({self.organisation})" if self.organisation else self.name


def sign_file(source: Path, target: Path, identity: Identity, *, overwrite: bool = False) -> Signature:
    """Write ``source`` with content credentials to ``target``, all of it or nothing, and return them.

    They say that a generative model made it, and with which software. ``target`` may be ``source``, which stays as it
    is if anything fails.

    Raises:
        SettingError: another kind of file, a certificate that is over, a key that is not its own, no package.
        MediaError: a file that does not say that a model made it, or that is signed already.
        TargetExistsError: there is a file of this name, and nothing says that it may go.
        LTX2Error: a file that is missing or cannot be read or written.
    """
    kind, c2pa = _kind(source), _library()
    if _kind(target) != kind:
        raise SettingError(f"{target.name} is of another kind than {source.name}: end its name with {source.suffix}.")
    if not overwrite:
        check_free(target)
    if SOURCE_TYPE not in read_tags(source).get(SOURCE_TAG, ""):
        raise MediaError(
            f"{source.name} does not say that a model made it, which its signature would: sign a file as it was "
            "written here."
        )
    check_unsigned(source)
    with _signer(c2pa, identity) as signer, whole_or_nothing(target) as unfinished:
        try:
            with (
                c2pa.Context.from_dict(_SETTINGS) as context,
                c2pa.Builder(_manifest(target.name, kind), context) as builder,
                open_local(source) as old,
                unfinished.open("w+b") as new,
            ):
                builder.sign(signer, kind, old, new)
        except c2pa.C2paError as error:
            raise SettingError(
                f"{source.name} cannot be signed with {identity.certificate.name} ({_reason(error)}), and is left as "
                "it was: give a certificate for signing with all that lead to its root, and a timestamp authority that "
                "answers, or none."
            ) from error
        if (signature := read_signature(unfinished)) is None or signature.faults:
            raise MediaError(f"{source.name} cannot be signed: what was written does not hold. Choose another file.")
    return signature


def check_unsigned(path: Path) -> None:
    """Raise MediaError for a file that is signed already, whose credentials another signature would hide."""
    if path.suffix.lower() in KINDS and (before := read_signature(path)) is not None:
        raise MediaError(f"{path.name} is signed already, by {before.who}: sign the file as it was before.")


def anchors_of(given: Path | None = None) -> Path | None:
    """Return the file of those who are believed: the one that is given, or what the environment says, or none."""
    return given or (Path(named) if (named := os.environ.get(ANCHORS)) else None)


def read_signature(path: Path, anchors: Path | None = None) -> Signature | None:
    """Return who signed a file and whether it is whole; None of one that is not signed.

    Args:
        path: of the file.
        anchors: PEM of the certificates of authorities that are believed, such as the trust list of C2PA; None
            believes nobody.

    Raises:
        SettingError: another kind of file, anchors that are none, or no package.
        MediaError: it is damaged.
        LTX2Error: it is missing, or may not be read.
    """
    kind, c2pa = _kind(path), _library()
    trust = {} if anchors is None else {"trust": {"trust_anchors": _read_anchors(anchors)}}
    try:
        with (
            open_local(path) as file,
            c2pa.Context.from_dict(_SETTINGS | trust) as context,
            c2pa.Reader(kind, file, context=context) as reader,
        ):
            return _signature(json.loads(reader.json()))
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        raise MediaError(
            f"{path.name} cannot be read ({_reason(error)}): it is of another kind, damaged or cut off."
        ) from error


def describe_origin(path: Path, signature: Signature | None) -> str:
    """Return in a few lines who signed a file, whether it is whole, and what it says of itself.

    Args:
        path: of the file.
        signature: that ``read_signature`` found in it.
    """
    if signature is None:
        lines = [f"{path.name}: it is not signed"]
    else:
        made = f"made by a generative model ({signature.source})" if signature.source else "how it was made is not told"
        state = "WAS CHANGED since it was" if signature.faults else "is whole, and"
        lines = [f"{path.name}: it {state} signed by {signature.who}{signature.time and f' on {signature.time}'}"]
        lines += [f"  changed              {fault}" for fault in signature.faults]
        lines.append(f"  signed               {made}, with {signature.generator}")
        if signature.trusted:
            lines.append("  certificate          of an authority that is believed here")
        else:
            lines.append("  certificate          of nobody that is known here: whether the name is true is not shown")
    return "\n".join([*lines, describe_tags(path, graph=False)])


def _kind(path: Path) -> str:
    kind = KINDS.get(path.suffix.lower())
    if kind is None or os.path.isdir(path):  # which is no error for a name that is too long
        what = "a folder" if os.path.isdir(path) else f"of the kind {path.suffix or 'without a suffix'}"
        raise SettingError(f"{path.name} is {what}; signed are {', '.join(KINDS)} files.")
    return kind


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise SettingError(_INSTALL) from error
    return c2pa


def _reason(error: Exception) -> str:
    return one_line(error, 200).rstrip(".")


def _manifest(title: str, kind: str) -> dict[str, Any]:
    software = {"name": "ltx2-av", "version": VERSION}
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": software}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [created]}}
    return {"claim_generator_info": [software], "title": title, "format": kind, "assertions": [actions]}


def _signature(found: Mapping[str, Any]) -> Signature:
    manifest, state = found["manifests"][found["active_manifest"]], found.get("validation_state")
    signed = {"common_name": "nobody", "issuer": "", "time": "", **(manifest.get("signature_info") or {})}
    faults = tuple(
        f"{each['code']}: {each.get('explanation', '')}"
        for each in found.get("validation_status") or ()
        if each["code"] != _UNKNOWN
    )
    return Signature(
        name=signed["common_name"],
        organisation=signed["issuer"],
        time=signed["time"],
        generator=_generator(manifest),
        source=next(_sources(manifest), "").rpartition("/")[2],
        faults=faults or (() if state in ("Valid", "Trusted") else (f"it is {state}",)),
        trusted=state == "Trusted",
    )


def _generator(manifest: Mapping[str, Any]) -> str:
    software = (manifest.get("claim_generator_info") or [{}])[0]
    return " ".join(filter(None, (software.get("name"), software.get("version")))) or "software without a name"


def _sources(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the digital source types of what was created."""
    for assertion in manifest.get("assertions", ()):
        actions = assertion["data"].get("actions", ()) if assertion["label"].startswith("c2pa.actions") else ()
        yield from (each.get("digitalSourceType", "") for each in actions if each.get("action") == "c2pa.created")


@contextmanager
def _signer(c2pa: Any, identity: Identity) -> Iterator[Any]:
    """What signs in this name. Raises SettingError where certificate and key cannot."""
    chain, key = (_read_pem(path) for path in (identity.certificate, identity.key))
    algorithm = _checked_algorithm(chain, key, identity)
    kind = getattr(c2pa.C2paSigningAlg, algorithm)
    asked = identity.timestamp.encode() or None
    try:
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(kind, chain, key, asked))
    except c2pa.C2paError as error:
        raise SettingError(
            f"{identity.certificate.name} and {identity.key.name} cannot sign ({_reason(error)}): give a certificate "
            "that is meant for signing, and its key."
        ) from error
    with signer:
        yield signer


def _read_pem(path: Path) -> bytes:
    with open_local(path) as file:
        content = file.read(LARGEST_PEM + 1)
    if len(content) > LARGEST_PEM or b"-----BEGIN" not in content:
        raise SettingError(f"{path.name} is no PEM file: give text with -----BEGIN in it.")
    return content


def _read_anchors(path: Path) -> str:
    """The certificates in a PEM file, as text. Raises SettingError where there are none."""
    from cryptography import x509  # comes with c2pa-python

    pem = _read_pem(path)
    _parsed(lambda: x509.load_pem_x509_certificates(pem), path, "certificates")
    return pem.decode("ascii", "replace")


def _checked_algorithm(chain: bytes, key: bytes, identity: Identity) -> str:
    """Return how C2PA calls what is signed with a key that belongs to the first certificate, which is valid today."""
    from cryptography import x509  # comes with c2pa-python
    from cryptography.hazmat.primitives import serialization

    own = _parsed(lambda: x509.load_pem_x509_certificates(chain)[0], identity.certificate, "certificate")
    private: Any = _parsed(lambda: serialization.load_pem_private_key(key, None), identity.key, "key without password")
    if private.public_key() != own.public_key():
        raise SettingError(
            f"{identity.key.name} is not the key of the first certificate in {identity.certificate.name}: give the one "
            "that it was made with."
        )
    first, last, now = own.not_valid_before_utc, own.not_valid_after_utc, datetime.now(timezone.utc)
    if not first <= now <= last:
        raise SettingError(
            f"The certificate in {identity.certificate.name} is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}, and "
            f"today is {now:%Y-%m-%d}: get a new one."
        )
    curves = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
    name = getattr(getattr(private, "curve", None), "name", type(private).__name__)
    algorithms = {**curves, "RSAPrivateKey": "PS256", "Ed25519PrivateKey": "ED25519"}
    if name not in algorithms:
        raise SettingError(f"{identity.key.name} is a key of {name}; C2PA signs with {', '.join(algorithms)}.")
    return algorithms[name]


def _parsed(read: Callable[[], Any], path: Path, what: str) -> Any:
    try:
        return read()
    except LTX2Error:
        raise
    except Exception as error:  # of damaged files it raises many kinds
        raise SettingError(f"{path.name} holds no {what}: give another PEM file.") from error
