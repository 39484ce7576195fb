"""Certificates: only clients with one from the cluster's authority can connect."""

import socket
import ssl
import stat
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from scaling import certificates as tls
from wine_quality.errors import DataError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in tls.FILES]


def context(folder: Path, side: ssl.Purpose) -> ssl.SSLContext:
    context = ssl.create_default_context(side, cafile=str(folder / tls.AUTHORITY))
    context.load_cert_chain(folder / tls.CERTIFICATE, folder / tls.KEY)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    return context


def greeting(server: Path, client: ssl.SSLContext, host: str = "127.0.0.1") -> bytes:
    """Return the response of a TLS server that uses the certificates of a folder."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            plain, _ = listening.accept()
            secured = context(server, ssl.Purpose.CLIENT_AUTH)
            with plain, suppress(OSError), secured.wrap_socket(plain, server_side=True) as connected:
                connected.sendall(b"hello")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            plain = socket.create_connection(listening.getsockname(), timeout=10)
            with plain, client.wrap_socket(plain, server_hostname=host) as connected:
                return connected.recv(5)
        finally:
            thread.join(10)


def test_a_client_with_the_certificates_connects(tmp_path):
    folder = tls.certificates(tmp_path / "tls")
    for host in ("localhost", "127.0.0.1", "::1"):
        assert greeting(folder, context(folder, ssl.Purpose.SERVER_AUTH), host) == b"hello"


def test_a_client_without_a_certificate_or_with_one_of_another_authority_is_refused(tmp_path):
    folder, other = tls.certificates(tmp_path / "tls"), tls.certificates(tmp_path / "other")
    without = ssl.create_default_context(cafile=str(folder / tls.AUTHORITY))
    foreign = ssl.create_default_context(cafile=str(folder / tls.AUTHORITY))
    foreign.load_cert_chain(other / tls.CERTIFICATE, other / tls.KEY)
    for client in (without, foreign):
        with pytest.raises(OSError, match="alert"):
            greeting(folder, client)


def test_a_server_of_another_authority_or_for_another_host_is_refused(tmp_path):
    folder, other = tls.certificates(tmp_path / "tls"), tls.certificates(tmp_path / "other")
    client = context(folder, ssl.Purpose.SERVER_AUTH)
    for server, host in ((other, "127.0.0.1"), (folder, "another.example")):
        with pytest.raises(ssl.SSLCertVerificationError):
            greeting(server, client, host)


def test_only_you_can_read_them_and_no_key_of_the_authority_is_stored(tmp_path):
    folder = tls.certificates(tmp_path / "tls")
    assert mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == dict.fromkeys(tls.FILES, 0o600)


def test_they_are_made_once_and_renewed_if_they_expire_or_lack_a_file_or_an_identifier(tmp_path, monkeypatch):
    folder = tls.certificates(tmp_path / "tls")
    first = contents(folder)
    assert contents(tls.certificates(folder)) == first
    (folder / tls.KEY).unlink()
    second = contents(tls.certificates(folder))
    assert second != first
    with monkeypatch.context() as patch:
        patch.setattr(tls, "RENEWED", timedelta(days=tls.DAYS))
        assert contents(tls.certificates(folder)) != second
    add = x509.CertificateBuilder.add_extension

    def without_identifier(builder, extension, critical):
        return builder if isinstance(extension, x509.AuthorityKeyIdentifier) else add(builder, extension, critical)

    with monkeypatch.context() as patch:
        patch.setattr(x509.CertificateBuilder, "add_extension", without_identifier)
        old = tls.new_certificates()
    for name, content in zip(tls.FILES, old, strict=True):
        (folder / name).write_bytes(content)
    assert contents(tls.certificates(folder)) != list(old)


@pytest.mark.parametrize("name", tls.FILES)
def test_files_that_are_not_certificates_are_reported(tmp_path, name):
    folder = tls.certificates(tmp_path / "tls")
    (folder / name).write_text("junk")
    with pytest.raises(
        DataError, match=rf"^{folder}: holds no usable certificates .* Delete the folder and run again\.$"
    ):
        tls.certificates(folder)


def test_a_certificate_of_another_authority_is_reported(tmp_path):
    folder, other = tls.certificates(tmp_path / "tls"), tls.certificates(tmp_path / "other")
    (other / tls.AUTHORITY).replace(folder / tls.AUTHORITY)
    with pytest.raises(DataError, match=rf"^{folder}: holds no usable certificates \(not signed by the authority\)"):
        tls.certificates(folder)
