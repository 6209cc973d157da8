"""HTTPS: a server whose certificate nobody vouches for is refused, before anything is sent to it."""

from __future__ import annotations

import datetime
import socket
import ssl

import pytest

from sfdaq_ophyd.clients._http import HttpClient
from sfdaq_ophyd.errors import ServiceUnreachable

from ..http_peer import reply_with, serving

x509 = pytest.importorskip("cryptography.x509")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate of localhost, and its key, in one file."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(pem) + private)
    return path


@pytest.fixture
def server(certificate):
    """An HTTPS server: its address, and what it was asked."""
    asked = []

    def answer(handler):
        asked.append(handler.path)
        reply_with(200, b"{}")(handler)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(answer, context) as url:
        yield url.replace("http://127.0.0.1", "https://localhost"), asked


def test_request_when_nobody_vouches_for_the_server_then_refused_by_name_and_nothing_was_sent(server):
    url, asked = server
    service = HttpClient(url, name="svc")
    with pytest.raises(ServiceUnreachable, match=rf"{url} is not reachable.*certificate verify failed"):
        service.request("PUT", "/x", backoff=0.01)
    assert not asked


def test_request_when_the_system_is_told_to_trust_the_server_then_it_is_answered(
    server, certificate, monkeypatch
):
    url, asked = server
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    service = HttpClient(url, name="svc")
    assert [service.request("PUT", path).json() for path in ("/x", "/y")] == [{}, {}]
    assert asked == ["/x", "/y"]
    service.close()


def test_request_when_the_certificate_is_of_another_host_then_refused(server, certificate, monkeypatch):
    url, asked = server
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with pytest.raises(ServiceUnreachable, match="certificate is not valid for '127.0.0.1'"):
        HttpClient(url.replace("localhost", "127.0.0.1"), name="svc").request("PUT", "/x", backoff=0.01)
    assert not asked


def test_request_when_the_server_never_answers_the_handshake_then_it_ends_at_its_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = HttpClient(f"https://localhost:{silent.getsockname()[1]}", name="svc", timeout=0.3)
        with pytest.raises(ServiceUnreachable):  # nothing of the call was sent
            service.request("PUT", "/x")
