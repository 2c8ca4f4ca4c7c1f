"""What is stored of a request that sets a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skybridge.faas.v1 import secret_service_pb2 as pb
from skybridge_server.api.requests import request_key
from skybridge_server.api.secrets import SecretServicer
from skybridge_server.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from skybridge_server.repositories.store import SqliteRepositories
from skybridge_server.services.clock import SYSTEM_CLOCK
from skybridge_server.services.secrets import SecretService
from skybridge_server.services.violations import Violations

UUID = "01890a5d-ac96-774b-bcce-b302099a8057"
CONTEXT: Any = None


async def test_nothing_that_is_stored_helps_to_guess_a_value(tmp_path: Path) -> None:
    store = await SqliteRepositories.open(tmp_path / "skybridge.db")
    servicer = SecretServicer(SecretService(store, SYSTEM_CLOCK))
    create = pb.CreateSecretRequest(secret_id="db", value=b"1234", request_id=UUID)
    update = pb.UpdateSecretRequest(name="db", value=b"5678", request_id=UUID)
    await servicer.CreateSecret(create, CONTEXT)
    await servicer.UpdateSecret(update, CONTEXT)
    for method, request in (("CreateSecret", create), ("UpdateSecret", update)):
        plain = request_key(method, request, UUID, Violations())
        stored = await store.requests.find(method, UUID)
        assert plain is not None
        assert stored is not None
        assert stored.fingerprint != plain.fingerprint
    await store.close()


async def test_only_a_secret_makes_a_key(tmp_path: Path) -> None:
    store = await SqliteRepositories.open(tmp_path / "skybridge.db")
    servicer = SecretServicer(SecretService(store, SYSTEM_CLOCK))
    key = tmp_path / "skybridge.db-key"
    update = pb.UpdateSecretRequest(name="db", value=b"x", request_id=UUID)
    with pytest.raises(NotFoundError):
        await servicer.UpdateSecret(update, CONTEXT)
    wrong = pb.CreateSecretRequest(secret_id="UP", request_id=UUID)
    with pytest.raises(InvalidArgumentError):
        await servicer.CreateSecret(wrong, CONTEXT)
    assert not key.exists()
    create = pb.CreateSecretRequest(secret_id="db", value=b"x", request_id=UUID)
    await servicer.CreateSecret(create, CONTEXT)
    key.unlink()
    # What is wrong with a request is told first, with or without a request id.
    with pytest.raises(InvalidArgumentError):
        await servicer.CreateSecret(wrong, CONTEXT)
    with pytest.raises(FailedPreconditionError):
        await servicer.CreateSecret(create, CONTEXT)
    await store.close()
