from __future__ import annotations

import io
import json
import os
import ssl
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console

from skybridge.faas.v1 import function_service_pb2 as service
from skybridge_client.cli import progress
from skybridge_client.cli.build_context import is_ignored, pack, parse_rules
from skybridge_client.cli.manifest import Manifest, ManifestError, load
from skybridge_client.messages import Function, FunctionState, LayerProgress, PullPolicy, Revision
from tests.client.commands import skybridge
from tests.client.engine import ScriptedEngine, scripted_engine
from tests.client.scripted import Abort, Scripted

NAME = "namespaces/default/functions/my-function"
NOT_FOUND = Abort(grpc.StatusCode.NOT_FOUND, "no such function", reason="NOT_FOUND")
BUILT: list[dict[str, Any]] = [
    {"stream": "Step 1/2 : FROM busybox\n"},
    {"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "id": "abc"},
    {"status": "Pull complete", "progressDetail": {}, "id": "abc"},
    {"stream": " ---> 0123\n"},
    {"stream": "Step 2/2 : RUN make\n"},
    {"stream": "compiling\n"},
    {"aux": {"ID": "sha256:ab"}},
    {"stream": "Successfully built 0123\n"},
]


# What is packed


@pytest.mark.parametrize(
    ("lines", "ignored", "packed"),
    [
        ("*.log", ["a.log"], ["sub/a.log", "a.txt"]),
        ("**/*.log", ["a.log", "sub/deep/a.log"], ["a.txt"]),
        ("sub", ["sub", "sub/a", "sub/deep/b"], ["subway"]),
        ("/sub/", ["sub/a"], ["a/sub"]),
        ("./sub", ["sub/a"], ["a"]),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[ab].txt", ["a.txt"], ["c.txt"]),
        ("[^ab].txt", ["c.txt"], ["a.txt"]),
        ("*\n!keep", ["a", "other/keep"], ["keep", "keep/inside"]),
        ("sub\n!sub/keep\nsub/keep/not", ["sub/a", "sub/keep/not"], ["sub/keep"]),
        ("# *\n\n  a  ", ["a"], ["b", "# x"]),
        (r"a\*b", ["a*b"], ["axb"]),
        ("**", ["a", "a/b"], []),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_dockerignore(lines: str, ignored: list[str], packed: list[str]) -> None:
    rules = parse_rules(lines)
    assert [name for name in ignored if not is_ignored(name, rules)] == []
    assert [name for name in packed if is_ignored(name, rules)] == []


def tree(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def packed_names(folder: Path, dockerfile: str = "Dockerfile") -> set[str]:
    with pack(folder, dockerfile) as context, tarfile.open(fileobj=context) as tar:
        entries = list(tar)
    assert {(entry.uid, entry.gid, entry.uname) for entry in entries} == {(0, 0, "")}
    return {entry.name for entry in entries}


def test_the_dockerfile_is_packed_whatever_is_ignored(tmp_path: Path) -> None:
    tree(tmp_path, "Dockerfile", "docker/Dockerfile.dev", "docker/x", "a")
    (tmp_path / ".dockerignore").write_text("*\n")
    assert packed_names(tmp_path) == {"Dockerfile", ".dockerignore"}
    dev = "docker/Dockerfile.dev"
    assert packed_names(tmp_path, dev) == {dev, ".dockerignore"}


def test_what_is_kept_in_an_ignored_folder_is_packed(tmp_path: Path) -> None:
    tree(tmp_path, "Dockerfile", "sub/a", "sub/keep/b", "other/c")
    (tmp_path / ".dockerignore").write_text("sub\n!sub/keep\n")
    assert packed_names(tmp_path) == {
        "Dockerfile",
        ".dockerignore",
        "sub/keep",
        "sub/keep/b",
        "other",
        "other/c",
    }


def test_everyone_may_read_what_a_narrow_umask_keeps_to_its_owner(tmp_path: Path) -> None:
    tree(tmp_path, "code.py", "bin/run")
    for name, mode in (("code.py", 0o600), ("bin/run", 0o700), ("bin", 0o700)):
        (tmp_path / name).chmod(mode)
    with pack(tmp_path, "Dockerfile") as context, tarfile.open(fileobj=context) as tar:
        modes = {entry.name: entry.mode for entry in tar}
    assert modes == {"code.py": 0o644, "bin": 0o755, "bin/run": 0o755}


def test_links_are_packed_as_links_and_sockets_not_at_all(tmp_path: Path) -> None:
    tree(tmp_path, "a", "sub/b")
    (tmp_path / "link").symlink_to("sub")
    os.mkfifo(tmp_path / "fifo")
    assert packed_names(tmp_path) == {"a", "sub", "sub/b", "link"}


# skybridge.toml


def test_without_a_file_everything_is_the_default(tmp_path: Path) -> None:
    folder = tmp_path / "My Function!"
    folder.mkdir()
    assert load(folder) == Manifest(name="my-function")


def test_a_file_with_everything(tmp_path: Path) -> None:
    (tmp_path / "skybridge.toml").write_text(
        """
        name = "resize"
        [function]
        network = "egress"
        memory_bytes = "256MiB"
        pids = 7
        execution_timeout = "2m"
        shutdown_grace = 3
        env = { QUALITY = "80" }
        [build]
        dockerfile = "Dockerfile.dev"
        image = "me/resize"
        args = { BASE = "busybox", LEVEL = 3 }
        """
    )
    assert load(tmp_path) == Manifest(
        name="resize",
        fields={
            "network": "egress",
            "memory_bytes": 256 << 20,
            "pids": 7,
            "execution_timeout": 120,
            "shutdown_grace": 3,
            "env": {"QUALITY": "80"},
        },
        dockerfile="Dockerfile.dev",
        image="me/resize",
        args={"BASE": "busybox", "LEVEL": "3"},
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "nme = 'x'\n[function]\nmemry = 1\n[build]\narg = 1",
            ["nme", "function.memry", "build.arg"],
        ),
        ("function = 1", ["'function' is no table"]),
        ("[function]\nmemory_bytes = 'big'", ["function.memory_bytes: 'big' is no size"]),
        ("[function]\nqueue_timeout = 'soon'", ["function.queue_timeout: 'soon' is no duration"]),
        ("= 1", ["Invalid statement"]),
    ],
)
def test_a_wrong_file_is_refused_with_all_that_is_wrong(
    content: str, said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "skybridge.toml").write_text(content)
    with pytest.raises(ManifestError) as caught:
        load(tmp_path)
    assert [each for each in said if each not in str(caught.value)] == []


# The command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my-function"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM busybox\n")
    return folder


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEngine]:
    with scripted_engine(tmp_path / "engine.sock") as engine:
        engine.answer = BUILT
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        monkeypatch.delenv("DOCKER_TLS_VERIFY", raising=False)
        yield engine


def ready(server: Scripted, state: FunctionState.ValueType) -> None:
    function = Function(name=NAME, state=state, active_revision=f"{NAME}/revisions/4")
    server.on("GetFunction", service.GetFunctionResponse(function=function))


def new(server: Scripted) -> None:
    server.on("GetFunction", NOT_FOUND)
    server.on("CreateFunction", service.CreateFunctionResponse())
    server.on("DeployFunction", service.DeployFunctionResponse(revision=Revision(number=4)))
    ready(server, FunctionState.FUNCTION_STATE_ACTIVE)


def test_up_builds_creates_deploys_and_says_what_to_do_next(
    folder: Path, engine: ScriptedEngine, server: Scripted
) -> None:
    new(server)
    ran = skybridge(server, "up", str(folder), "--build-arg", "BASE=x", "--memory", "32MiB")
    assert (ran.code, ran.stdout) == (0, b"")
    assert ran.stderr.splitlines() == [
        "building skybridge-local/my-function",
        "1/2 FROM busybox",
        "2/2 RUN make",
        "skybridge: my-function is ready at revision 4; run it with: skybridge run my-function",
    ]
    [query] = engine.queries
    assert query["t"] == "skybridge-local/my-function"
    assert json.loads(query["buildargs"]) == {"BASE": "x"}
    assert set(engine.contexts[0]) == {"Dockerfile"}
    [created] = server.asked("CreateFunction")
    assert created.function_id == "my-function"
    assert created.function.spec.image == "skybridge-local/my-function"
    assert created.function.spec.pull_policy == PullPolicy.PULL_POLICY_NEVER
    assert created.function.spec.resources.memory_bytes == 32 << 20
    assert server.asked("DeployFunction")[0].name == "my-function"


def test_up_makes_an_existing_function_what_the_folder_says(
    folder: Path, engine: ScriptedEngine, server: Scripted
) -> None:
    (folder / "skybridge.toml").write_text(
        '[function]\nenv = { A = "1" }\npull_policy = "always"\n[build]\nargs = { BASE = "x" }'
    )
    ready(server, FunctionState.FUNCTION_STATE_DISABLED)
    server.on("UpdateFunction", service.UpdateFunctionResponse())
    server.on("DeployFunction", service.DeployFunctionResponse())
    ready(server, FunctionState.FUNCTION_STATE_DISABLED)
    ran = skybridge(
        server,
        *("up", str(folder), "--name", "other", "--image-tag", "me/other:1", "--env", "B=2"),
        "--json",
    )
    assert ran.json["name"] == NAME
    assert "deployed but disabled" in ran.stderr
    [updated] = server.asked("UpdateFunction")
    assert list(updated.update_mask.paths) == ["description", "labels", "spec"]
    assert updated.function.name == "other"
    assert updated.function.spec.image == "me/other:1"
    assert updated.function.spec.pull_policy == PullPolicy.PULL_POLICY_ALWAYS
    assert dict(updated.function.spec.env) == {"B": "2"}
    assert json.loads(engine.queries[0]["buildargs"]) == {"BASE": "x"}


def test_up_without_a_dockerfile_builds_nothing(
    tmp_path: Path, engine: ScriptedEngine, server: Scripted
) -> None:
    (tmp_path / "skybridge.toml").write_text('name = "a"\n[function]\nimage = "busybox:1.36"')
    new(server)
    assert skybridge(server, "up", str(tmp_path)).code == 0
    assert engine.queries == []
    [created] = server.asked("CreateFunction")
    assert created.function.spec.image == "busybox:1.36"
    assert created.function.spec.pull_policy == PullPolicy.PULL_POLICY_UNSPECIFIED


def test_a_build_that_fails_shows_its_last_words(
    folder: Path, engine: ScriptedEngine, server: Scripted
) -> None:
    lines = [{"stream": f"line {number}\n\n"} for number in range(30)]
    engine.answer = [*lines, {"error": "make: not\nfound\n", "errorDetail": {"code": 127}}]
    ran = skybridge(server, "up", str(folder))
    assert (ran.code, server.requests) == (1, [])
    shown = ran.stderr.splitlines()
    assert shown[1:3] == ["line 10", "line 11"]
    assert shown[-1] == ("skybridge: could not build skybridge-local/my-function: make: not found")


@pytest.mark.parametrize(
    ("answer", "said"), [(b'{"message": "no such Dockerfile"}', "no such Dockerfile"), (b"?", "?")]
)
def test_a_build_that_is_refused(
    answer: bytes, said: str, folder: Path, engine: ScriptedEngine, server: Scripted
) -> None:
    engine.status, engine.answer = 400, answer
    ran = skybridge(server, "up", str(folder))
    assert ran.code == 1
    assert ran.stderr.endswith(f"could not build skybridge-local/my-function: {said}\n")


def test_an_engine_at_a_port(
    folder: Path, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_engine() as engine:
        engine.answer = BUILT
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        new(server)
        assert skybridge(server, "up", str(folder)).code == 0
        assert len(engine.queries) == 1


def test_an_engine_that_wants_certificates(
    folder: Path, authority: Path, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = folder.parent / "certificates"
    mine.mkdir()
    for name, source in (("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key")):
        (mine / f"{name}.pem").write_bytes((authority / source).read_bytes())
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority / "ca.pem")
    tls.load_cert_chain(authority / "server.pem", authority / "server.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    with scripted_engine(tls=tls) as engine:
        engine.answer = BUILT
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(mine))
        new(server)
        ran = skybridge(server, "up", str(folder))
        assert (ran.code, len(engine.queries)) == (0, 1)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("unix:///nowhere/engine.sock", "no container engine answers at unix:///nowhere"),
        ("tcp://127.0.0.1:1", "no container engine answers at tcp://127.0.0.1:1"),
        ("https://127.0.0.1:1", "no container engine answers at https://127.0.0.1:1"),
        ("ssh://somewhere", "is neither unix:// nor tcp://"),
    ],
)
def test_a_missing_engine_is_told_with_the_way_out(
    host: str, said: str, folder: Path, server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.delenv("DOCKER_CERT_PATH", raising=False)
    ran = skybridge(server, "up", str(folder))
    assert (ran.code, server.requests) == (69, [])
    assert said in ran.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no Dockerfile, and its skybridge.toml names no image"),
        ("[function]\nimage = 'a'\nnetwork = 'host'", "'host' is none of none, egress"),
        ("[function]\nimage = 'a'\npids = 'x'", "skybridge.toml: "),
        ("wrong = 1", "unknown key 'wrong'"),
    ],
)
def test_a_folder_that_says_nonsense(
    content: str | None, said: str, tmp_path: Path, server: Scripted
) -> None:
    if content:
        (tmp_path / "skybridge.toml").write_text(content)
    ran = skybridge(server, "up", str(tmp_path))
    assert (ran.code, server.requests) == (2, [])
    assert said in ran.stderr


def test_on_a_terminal_progress_is_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def terminal(**options: Any) -> Console:
        return Console(file=screen, force_terminal=True, width=120, highlight=options["highlight"])

    monkeypatch.setattr("rich.console.Console", terminal)
    with progress.Steps() as steps:
        steps.step("pulling hello")
        steps.layer(LayerProgress(layer="abc", status="Downloading", current_bytes=1 << 20))
        steps.layer(
            LayerProgress(
                layer="abc", status="Downloading", current_bytes=1 << 20, total_bytes=2 << 20
            )
        )
        steps.count("RUN make", 1, 2)
    shown = screen.getvalue()
    assert "pulling hello" in shown
    assert "1 MiB of 2 MiB" in shown
    assert "RUN make" in shown
