# The server's image: docker build -t skybridge-server .
#
# BASE is a Python 3.11 or newer with pip. The server needs the engine's socket, see compose.yaml.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
# An environment without pip of its own: that of the base image fills it.
RUN python3 -m venv --without-pip /opt/skybridge
COPY constraints.txt pyproject.toml LICENSE README.md ./
COPY generated generated
COPY client client
COPY server server
RUN pip --python /opt/skybridge/bin/python3 install --no-cache-dir --disable-pip-version-check \
      --constraint constraints.txt ./generated './client[cli]' . \
    && mkdir -p /rootfs/var/lib/skybridge && chown 65532:65532 /rootfs/var/lib/skybridge

FROM ${BASE}
COPY --from=build /opt/skybridge /opt/skybridge
COPY --from=build --chown=65532:65532 /rootfs/var/lib/skybridge /var/lib/skybridge
ENV PATH=/opt/skybridge/bin:$PATH \
    HOME=/var/lib/skybridge \
    FAAS_DATABASE=/var/lib/skybridge/skybridge.db
VOLUME /var/lib/skybridge
EXPOSE 50051 9464
USER 65532:65532
# Over plain gRPC on the default port; with TLS or on another port, say another check.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["python3", "-c", "\
from grpc import insecure_channel; \
from grpc_health.v1 import health_pb2, health_pb2_grpc; \
stub = health_pb2_grpc.HealthStub(insecure_channel('127.0.0.1:50051')); \
answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=5); \
raise SystemExit(answer.status != health_pb2.HealthCheckResponse.SERVING)"]
ENTRYPOINT ["skybridge-server"]
CMD ["serve"]
