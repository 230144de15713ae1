"""Certificates for tests: a root of our own, and what it says of whoever signs. Needs cryptography."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(timezone.utc)
PEM = serialization.Encoding.PEM
KEYS = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "PS256": lambda: rsa.generate_private_key(65537, 2048),
    "ED25519": ed25519.Ed25519PrivateKey.generate,
}


def write_identity(folder: Path, kind: str = "ES256", days: int = 30, signs: bool = True) -> tuple[Path, Path]:
    """Write a certificate with its root, and its key; return both paths.

    Args:
        folder: for the files.
        kind: of key.
        days: from now, after which it is over; it began 60 days ago.
        signs: whether it is meant for signing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root, key = KEYS["ES256"](), KEYS[kind]()
    own = _certificate("Jane Doe", key.public_key(), root, days, signs)
    chain = [own, _certificate("Test Root", root.public_key(), root, 365, None)]
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(each.public_bytes(PEM) for each in chain))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, private


def _name(common: str) -> x509.Name:
    parts = (NameOID.ORGANIZATION_NAME, "Test Studio"), (NameOID.COMMON_NAME, common)
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])


def _certificate(name: str, public, root, days: int, signs: bool | None) -> x509.Certificate:
    """One of the root itself where ``signs`` is None."""
    is_root = signs is None
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"digital_signature": not is_root, "key_cert_sign": is_root, "crl_sign": is_root}
    builder = (
        x509.CertificateBuilder(_name("Test Root"), _name(name), public, x509.random_serial_number())
        .not_valid_before(NOW - timedelta(60))
        .not_valid_after(NOW + timedelta(days))
        .add_extension(x509.BasicConstraints(is_root, None), critical=True)
        .add_extension(x509.KeyUsage(**usage, encipher_only=False, decipher_only=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False)
    )
    if signs:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(root, hashes.SHA256())
