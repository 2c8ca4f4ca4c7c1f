"""SecretService on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import StatusCode
from structlog.testing import capture_logs

from skybridge.faas.v1 import function_pb2, secret_pb2
from skybridge.faas.v1 import function_service_pb2 as functions_pb
from skybridge.faas.v1 import secret_service_pb2 as pb
from tests.api.served import Served, refusal
from tests.support.waiting import PATIENCE

FULL = "namespaces/default/secrets/db"
UUID = "01890a5d-ac96-774b-bcce-b302099a8057"
KIB = 1024


async def create(
    served: Served, id_: str = "db", value: bytes = b"geheim", **fields: Any
) -> secret_pb2.Secret:
    request = pb.CreateSecretRequest(secret_id=id_, value=value, **fields)
    return (await served.secrets.CreateSecret(request, timeout=PATIENCE)).secret


async def update(served: Served, value: bytes, **fields: Any) -> secret_pb2.Secret:
    request = pb.UpdateSecretRequest(name="db", value=value, **fields)
    return (await served.secrets.UpdateSecret(request, timeout=PATIENCE)).secret


async def test_creates_gets_lists_updates_and_deletes(served: Served) -> None:
    created = await create(served)
    assert (created.name, created.value_bytes) == (FULL, 6)
    assert created.create_time == created.update_time
    for name in ("db", FULL):
        found = await served.secrets.GetSecret(pb.GetSecretRequest(name=name), timeout=PATIENCE)
        assert found.secret == created
    await create(served, "other", parent="namespaces/red")
    await create(served, "api")
    first = await served.secrets.ListSecrets(pb.ListSecretsRequest(page_size=1), timeout=PATIENCE)
    rest = await served.secrets.ListSecrets(
        pb.ListSecretsRequest(page_token=first.next_page_token), timeout=PATIENCE
    )
    assert [each.name for each in (*first.secrets, *rest.secrets)] == [
        "namespaces/default/secrets/api",
        FULL,
    ]
    changed = await update(served, b"x" * 64 * KIB, etag=created.etag)
    assert (changed.value_bytes, changed.create_time) == (64 * KIB, created.create_time)
    refused = await refusal(lambda: update(served, b"y", etag=created.etag))
    assert (refused.code, refused.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    await served.secrets.DeleteSecret(pb.DeleteSecretRequest(name="db"), timeout=PATIENCE)
    missing = pb.GetSecretRequest(name="db")
    refused = await refusal(lambda: served.secrets.GetSecret(missing, timeout=PATIENCE))
    assert refused.code is StatusCode.NOT_FOUND


async def test_every_wrong_field_is_told(served: Served) -> None:
    refused = await refusal(
        lambda: create(served, "UP", b"", parent="red", request_id="not a uuid")
    )
    assert refused.code is StatusCode.INVALID_ARGUMENT
    assert {*refused.fields} == {"parent", "secret_id", "value", "request_id"}
    refused = await refusal(lambda: create(served, value=b"x" * (64 * KIB + 1)))
    assert refused.fields == ["value"]
    refused = await refusal(lambda: update(served, b""))
    assert refused.fields == ["value"]


async def test_a_repeat_is_told_from_another_request(served: Served) -> None:
    created = await create(served, request_id=UUID)
    assert await create(served, request_id=UUID) == created
    refused = await refusal(lambda: create(served, value=b"other", request_id=UUID))
    assert (refused.code, refused.reason) == (StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    refused = await refusal(lambda: create(served))
    assert refused.reason == "SECRET_EXISTS"
    changed = await update(served, b"new", request_id=UUID)
    assert await update(served, b"new", request_id=UUID) == changed
    refused = await refusal(lambda: update(served, b"newer", request_id=UUID))
    assert refused.reason == "REQUEST_ID_REUSED"


async def test_no_value_is_logged(served: Served) -> None:
    with capture_logs() as logs:
        await create(served, request_id=UUID)
        await refusal(lambda: create(served, "UP"))
    assert [each["resource"] for each in logs if each["event"] == "call"] == [FULL, "?"]
    assert "geheim" not in str(logs)


@pytest.mark.parametrize("secrets", [{".x": "db"}, {"x": "UP"}])
async def test_a_function_says_where_it_wants_them(secrets: dict[str, str], served: Served) -> None:
    function = await served.create(spec={"image": "busybox", "secrets": {"password": "db"}})
    assert dict(function.spec.secrets) == {"password": "db"}
    refused = await refusal(
        lambda: served.create("other", spec={"image": "busybox", "secrets": secrets})
    )
    assert refused.fields == [f"function.spec.secrets[{next(iter(secrets))}]"]


async def test_a_mask_changes_them_alone(served: Served) -> None:
    await served.create(spec={"image": "busybox", "secrets": {"a": "db"}})
    spec = function_pb2.FunctionSpec(secrets={"b": "api"})
    request = functions_pb.UpdateFunctionRequest(
        function=function_pb2.Function(name="hello", spec=spec)
    )
    request.update_mask.paths.append("spec.secrets")
    changed = (await served.functions.UpdateFunction(request, timeout=PATIENCE)).function
    assert (changed.spec.image, dict(changed.spec.secrets)) == ("busybox", {"b": "api"})
