"""A function that speaks HTTP, and does what its input says."""

from __future__ import annotations

from typing import Unpack

from skybridge_client import AsyncClient
from skybridge_client.specs import FunctionFields
from tests.support.functions import deploy_python

PROGRAM = r"""
import os, socketserver, sys, threading, time, uuid

ME = uuid.uuid4().hex.encode()
GO = threading.Event()


def answer(handler, body, status=b"200 OK", fields=()):
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *fields]
    handler.wfile.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)


def chunk(handler, data):
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


class Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        while line := self.rfile.readline():
            fields = {}
            while field := self.rfile.readline().strip():
                name, _, value = field.partition(b":")
                fields[name.lower()] = value.strip()
            body = self.rfile.read(int(fields.get(b"content-length", 0)))
            self.obey(line.split()[1], fields, body)

    def obey(self, path, fields, body):
        word, _, rest = body.partition(b" ")
        if word == b"say":
            print(rest.decode(), file=sys.stderr, flush=True)
            answer(self, rest)
        elif word == b"who":
            answer(self, ME)
        elif word == b"env":
            answer(self, os.environ.get(rest.decode(), "").encode())
        elif word == b"field":
            answer(self, fields.get(rest, b""))
        elif word == b"path":
            answer(self, path)
        elif word == b"interfaces":
            with open("/proc/net/dev", "rb") as interfaces:
                answer(self, interfaces.read())
        elif word == b"fail":
            answer(self, rest, b"500 Oh No")
        elif word == b"typed":
            answer(self, b"{}", fields=(b"content-type: application/json", b"x-mine: yes"))
        elif word == b"die":
            os._exit(int(rest))
        elif word == b"half":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            os._exit(0)
        elif word == b"garbage":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
        elif word == b"close":
            answer(self, b"closed", fields=(b"connection: close",))
            self.connection.close()
        elif word == b"wait":
            GO.wait()
            answer(self, b"waited")
        elif word == b"slow":
            time.sleep(int(rest) / 1000)
            answer(self, body)
        elif word == b"fork":
            for _ in range(int(rest)):
                if not os.fork():
                    time.sleep(1000)
            answer(self, ME)
        elif word == b"go":
            GO.set()
            answer(self, b"gone")
        elif word == b"stream":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            chunk(self, b"one")
            GO.wait()
            chunk(self, b"two")
            chunk(self, b"")
        else:
            answer(self, body)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


Server(("", int(os.environ["PORT"])), Handler).serve_forever()
"""


async def deploy_http(client: AsyncClient, **fields: Unpack[FunctionFields]) -> str:
    """Create and deploy the function; return its id."""
    fields.setdefault("contract", "http")
    fields.setdefault("shutdown_grace", 1)  # Python heeds no SIGTERM as process 1
    return await deploy_python(client, PROGRAM, **fields)


LAMBDA = r"""
import os, sys, urllib.request

API = "http://%s/2018-06-01/runtime/invocation" % os.environ["AWS_LAMBDA_RUNTIME_API"]
served = 0
while True:
    with urllib.request.urlopen(API + "/next") as event:
        request = event.headers["Lambda-Runtime-Aws-Request-Id"]
        body = event.read()
    served += 1
    if body == b'"die"':
        sys.exit(4)
    data = b'{"served": %d, "got": %s}' % (served, body)
    urllib.request.urlopen(API + "/%s/response" % request, data).read()
"""
"""A function that asks for its events, as every Lambda runtime does."""
