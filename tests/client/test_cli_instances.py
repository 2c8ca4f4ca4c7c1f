"""`skybridge instances`."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from skybridge.faas.v1 import instance_service_pb2 as service
from skybridge_client.messages import Instance, InstanceState
from tests.client.commands import skybridge
from tests.client.scripted import Scripted

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
INSTANCE = Instance(
    name=f"namespaces/default/instances/{ID}",
    function="namespaces/default/functions/resize",
    revision="namespaces/default/functions/resize/revisions/7",
    state=InstanceState.INSTANCE_STATE_BUSY,
    container="c0ffee",
    running=2,
    executions=41,
    create_time=Timestamp(seconds=1_800_000_000),
)


def test_list(server: Scripted) -> None:
    server.on("ListInstances", service.ListInstancesResponse(instances=[INSTANCE]))
    ran = skybridge(server, "instances", "list", "--function", "resize")
    assert ran.code == 0
    assert ran.text.splitlines()[1].split()[:6] == [ID, "resize", "7", "busy", "2", "41"]
    (request,) = server.asked("ListInstances")
    assert (request.parent, request.function) == ("namespaces/default", "resize")


def test_get(server: Scripted) -> None:
    server.on("GetInstance", service.GetInstanceResponse(instance=INSTANCE))
    ran = skybridge(server, "instances", "get", ID, "--json")
    assert ran.json["container"] == "c0ffee"
    assert server.asked("GetInstance")[0].name == ID


def test_stop(server: Scripted) -> None:
    server.on("StopInstance", service.StopInstanceResponse(instance=INSTANCE))
    assert skybridge(server, "instances", "stop", ID, "--force").code == 0
    assert server.asked("StopInstance")[0].force
