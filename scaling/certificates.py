"""TLS certificates that the processes of a Dask cluster use to authenticate each other.

A Dask scheduler runs whatever code a client sends, so it must listen with TLS and accept only clients whose certificate
was signed by the cluster's own authority. The authority's key isn't stored: to add a machine, make all certificates
again.
"""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wine_quality.errors import DataError
from wine_quality.files import write_private

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"
FILES = (AUTHORITY, CERTIFICATE, KEY)
DAYS, RENEWED = 365, timedelta(days=30)  # validity, and how long before expiry they are renewed
HOSTS = [x509.DNSName("localhost"), *(x509.IPAddress(ip_address(one)) for one in ("127.0.0.1", "::1"))]
SIGNS = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # certificates, revocation lists


def certificates(folder: Path) -> Path:
    """Return `folder`, with `ca.pem`, `cert.pem` and `key.pem`; make them if one is missing, or if they expire soon.

    Scheduler, workers and clients share one certificate, because each Dask process is both server and client. Dask
    doesn't compare the certificate's host names. Only you can read the files. Raise `DataError` if one of them isn't a
    certificate or can't be written.
    """
    if not is_valid(folder):
        for name, content in zip(FILES, new_certificates(), strict=True):
            write_private(folder / name, content)
    return folder


def is_valid(folder: Path) -> bool:
    """Return whether a folder has all files, in the form that Python 3.13 requires, for longer than `RENEWED`."""
    paths = [folder / name for name in FILES]
    if not all(path.exists() for path in paths):
        return False
    try:
        ssl.create_default_context().load_cert_chain(paths[1], paths[2])
        authority, own = (x509.load_pem_x509_certificate(path.read_bytes()) for path in paths[:2])
        own.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, OSError) as error:
        why = str(error) or "not signed by the authority"
        raise DataError(f"{folder}: holds no usable certificates ({why}). Delete the folder and run again.") from None
    identified = any(isinstance(one.value, x509.AuthorityKeyIdentifier) for one in own.extensions)
    return identified and own.not_valid_after_utc - datetime.now(UTC) > RENEWED


def new_certificates() -> tuple[bytes, bytes, bytes]:
    """Return, as PEM, the certificate of a new authority, a certificate that it signed for `HOSTS`, and its key."""
    signer, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, subject = name("wine-quality authority"), name("wine-quality cluster")
    authority = builder(issuer, issuer, signer, signer).add_extension(x509.BasicConstraints(True, 0), critical=True)
    authority = authority.add_extension(SIGNS, critical=True)
    own = builder(issuer, subject, key, signer).add_extension(x509.BasicConstraints(False, None), critical=True)
    own = own.add_extension(x509.SubjectAlternativeName(HOSTS), critical=False)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    own = own.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    signed = [one.sign(signer, hashes.SHA256()).public_bytes(pem) for one in (authority, own)]
    return signed[0], signed[1], private


def builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """Return an unsigned certificate with what both need, valid from yesterday."""
    start = datetime.now(UTC) - timedelta(days=1)  # another machine's clock may be behind
    number, end = x509.random_serial_number(), start + timedelta(days=DAYS)
    made = x509.CertificateBuilder(issuer, subject, key.public_key(), number, start, end)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return made.add_extension(by, critical=False)


def name(common: str) -> x509.Name:
    """Return an X.509 name that has only a common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
