"""Waits until a server can execute functions: wait_healthy.py ADDRESS PID."""

from __future__ import annotations

import os
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = "skybridge.faas.v1.ExecutionService"
SECONDS = 30.0


def status(stub: health_pb2_grpc.HealthStub) -> str:
    """The state of the service, or why there is none."""
    try:
        # The published stubs leave the methods out.
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        answer = stub.Check(request, timeout=2)  # type: ignore[attr-defined]
    except grpc.RpcError as error:
        return str(error.details())
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def main() -> None:
    """Asks until the answer is SERVING, the process is gone, or the time is over."""
    address, pid = sys.argv[1], int(sys.argv[2])
    deadline = time.monotonic() + SECONDS
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while (found := status(stub)) != "SERVING":
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                sys.exit("the server has ended")
            if time.monotonic() > deadline:
                sys.exit(f"not serving after {SECONDS:.0f} s: {found}")
            time.sleep(0.1)


if __name__ == "__main__":
    main()
