"""Request ids and fingerprints."""

from __future__ import annotations

import uuid

import pytest

from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1 import function_service_pb2 as pb
from skybridge_server.api.requests import request_key
from skybridge_server.services.requests import RequestKey
from skybridge_server.services.violations import Violations

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
OF_VERSION_1 = "f7da51ce-e75f-11f1-9bce-02fc00000001"
OF_VERSION_4 = "c9350954-00e0-4186-9216-77982508cf5b"


def key_of(request: pb.DeployFunctionRequest | pb.CreateFunctionRequest) -> RequestKey:
    with Violations() as wrong:
        key = request_key("Method", request, request.request_id, wrong)
    assert key is not None
    return key


def test_without_an_id_there_is_no_key() -> None:
    with Violations() as wrong:
        assert request_key("Method", pb.DeployFunctionRequest(name="hello"), "", wrong) is None


@pytest.mark.parametrize("id_", [ID, ID.upper(), OF_VERSION_1, OF_VERSION_4])
def test_any_uuid_will_do(id_: str) -> None:
    key = key_of(pb.DeployFunctionRequest(name="hello", request_id=id_))
    assert (key.method, key.request_id) == ("Method", id_.lower())


@pytest.mark.parametrize(
    "id_", ["x", ID + "\n", ID.replace("-", ""), f"{{{ID}}}", f"urn:uuid:{ID}"]
)
def test_anything_else_is_wrong(id_: str) -> None:
    wrong = Violations()
    request_key("Method", pb.DeployFunctionRequest(), id_, wrong, field="start.request_id")
    assert [violation.field for violation in wrong] == ["start.request_id"]


def test_the_fingerprint_tells_requests_apart_but_not_their_ids() -> None:
    one = pb.CreateFunctionRequest(function_id="a", request_id=ID)
    again = pb.CreateFunctionRequest(function_id="a", request_id=str(uuid.uuid4()))
    other = pb.CreateFunctionRequest(function_id="b", request_id=ID)
    assert key_of(one).fingerprint == key_of(again).fingerprint != key_of(other).fingerprint
    assert one.request_id == ID


def test_the_order_of_a_map_makes_no_other_request() -> None:
    labels = {f"key-{n}": "x" for n in range(50)}
    requests = [
        pb.CreateFunctionRequest(request_id=ID, function=function_pb2.Function(labels=dict(items)))
        for items in (labels.items(), reversed(labels.items()))
    ]
    assert key_of(requests[0]).fingerprint == key_of(requests[1]).fingerprint


def test_no_trace_of_a_password_is_kept() -> None:
    plain = pb.DeployFunctionRequest(name="a", request_id=ID)
    secret = pb.DeployFunctionRequest(
        name="a",
        request_id=ID,
        registry_credentials=pb.RegistryCredentials(username="u", password="p"),
    )
    assert key_of(plain).fingerprint == key_of(secret).fingerprint
    assert secret.registry_credentials.password == "p"
