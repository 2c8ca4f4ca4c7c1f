"""TLS and client certificates, with authorities made for the test."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
import trustme
from prometheus_client import CollectorRegistry

from skybridge.faas.v1 import system_service_pb2 as pb
from skybridge.faas.v1 import system_service_pb2_grpc
from skybridge_server.api.access import open_to_all
from skybridge_server.api.server import GrpcServer
from skybridge_server.config import Address, Settings, SettingsError
from tests.api.tiny import LOOPBACK, Script, servicers
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Path:
    """A folder with cert.pem and key.pem of 127.0.0.1, and ca.pem."""
    write_certificate(authority, tmp_path)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


def write_certificate(authority: trustme.CA, folder: Path) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "cert.pem").write_bytes(b"".join(p.bytes() for p in certificate.cert_chain_pems))


def tls_settings(files: Path, *, client_ca: bool = False) -> Settings:
    return Settings(
        listen=LOOPBACK,
        tls_cert=files / "cert.pem",
        tls_key=files / "key.pem",
        tls_client_ca=files / "ca.pem" if client_ca else None,
    )


@asynccontextmanager
async def serve(settings: Settings) -> AsyncGenerator[Address, None]:
    server = GrpcServer(settings, servicers(Script()), CollectorRegistry(), open_to_all)
    try:
        yield await server.start()
    finally:
        await server.stop(timedelta(0))


async def ask(address: Address, credentials: grpc.ChannelCredentials | None) -> str:
    """Return the version that the server tells; AioRpcError without a connection."""
    where = str(address)
    channel = (
        grpc.aio.secure_channel(where, credentials)
        if credentials
        else grpc.aio.insecure_channel(where)
    )
    async with channel:
        stub = system_service_pb2_grpc.SystemServiceStub(channel)
        return (await stub.GetSystemInfo(pb.GetSystemInfoRequest(), timeout=PATIENCE)).version


def trusting(
    authority: trustme.CA, client: trustme.LeafCert | None = None
) -> grpc.ChannelCredentials:
    if client is None:
        return grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    return grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(),
        client.private_key_pem.bytes(),
        b"".join(pem.bytes() for pem in client.cert_chain_pems),
    )


async def refused(address: Address, credentials: grpc.ChannelCredentials | None) -> bool:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(address, credentials)
    return caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_callers_who_trust_the_authority_get_through(
    files: Path, authority: trustme.CA
) -> None:
    async with serve(tls_settings(files)) as address:
        assert await ask(address, trusting(authority)) == "tiny"
        assert await refused(address, None)
        assert await refused(address, trusting(trustme.CA()))


async def test_client_certificates_are_required_and_checked(
    files: Path, authority: trustme.CA
) -> None:
    async with serve(tls_settings(files, client_ca=True)) as address:
        known = authority.issue_cert("client@example.org")
        assert await ask(address, trusting(authority, known)) == "tiny"
        assert await refused(address, trusting(authority))
        stranger = trustme.CA().issue_cert("client@example.org")
        assert await refused(address, trusting(authority, stranger))


async def test_renewed_files_are_taken_without_a_restart(
    files: Path, authority: trustme.CA
) -> None:
    async with serve(tls_settings(files)) as address:
        assert await ask(address, trusting(authority)) == "tiny"
        renewed = trustme.CA()
        write_certificate(renewed, files)
        for name in ("cert.pem", "key.pem"):
            os.utime(files / name, (1, 1))
        assert await ask(address, trusting(renewed)) == "tiny"
        assert await refused(address, trusting(authority))


async def test_half_written_files_leave_the_old_certificate(
    files: Path, authority: trustme.CA
) -> None:
    async with serve(tls_settings(files)) as address:
        (files / "key.pem").write_text("half")
        assert await ask(address, trusting(authority)) == "tiny"
        (files / "key.pem").unlink()
        assert await ask(address, trusting(authority)) == "tiny"


async def problems(settings: Settings) -> dict[str, str]:
    server = GrpcServer(settings, servicers(Script()), CollectorRegistry(), open_to_all)
    with pytest.raises(SettingsError) as caught:
        await server.start()
    await server.stop(timedelta(0))
    return {problem.variable: problem.description for problem in caught.value.problems}


async def test_every_missing_file_is_named(tmp_path: Path) -> None:
    found = await problems(tls_settings(tmp_path, client_ca=True))
    assert found.keys() == {"FAAS_TLS_CERT", "FAAS_TLS_KEY", "FAAS_TLS_CLIENT_CA"}
    assert (
        found["FAAS_TLS_CERT"] == f"cannot read {tmp_path / 'cert.pem'}: No such file or directory"
    )


async def test_files_that_are_no_certificates_are_named(files: Path) -> None:
    (files / "ca.pem").write_text("nothing")
    assert (await problems(tls_settings(files, client_ca=True))).keys() == {"FAAS_TLS_CLIENT_CA"}
    (files / "key.pem").write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
    assert (await problems(tls_settings(files))).keys() == {"FAAS_TLS_KEY"}


ENCRYPTED = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAi8PHJq9ZLqZgICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEL1Vx3bTlbCeGTqbWx0ZbHEEgZDJ
-----END ENCRYPTED PRIVATE KEY-----
"""


async def test_encrypted_keys_are_refused_without_asking(files: Path) -> None:
    (files / "key.pem").write_text(ENCRYPTED)
    found = await problems(tls_settings(files))
    assert "without password" in found["FAAS_TLS_KEY"]
