"""`skybridge up`: from a folder to a function that is ready, in one command."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from skybridge_client.cli import exits, text
from skybridge_client.cli.build_context import pack
from skybridge_client.cli.engine import Engine, EngineError, EngineMissingError
from skybridge_client.cli.functions import follow_deployment
from skybridge_client.cli.manifest import Manifest, load
from skybridge_client.cli.output import Format, show
from skybridge_client.cli.progress import Steps
from skybridge_client.cli.session import Session, command, parsed
from skybridge_client.cli.specs import OPTIONS, function_fields
from skybridge_client.errors import NotFoundError
from skybridge_client.messages import Function, FunctionState, LayerProgress
from skybridge_client.specs import build_function

app = typer.Typer()

# Lines of a build's output that are shown when it fails.
_TAIL = 20

_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)")


@command(
    app,
    "up",
    "skybridge up",
    "skybridge up examples/hello-world --build-arg BASE=python:3.13-slim",
    "skybridge up . --name resize --memory 256MiB --network egress",
    options={name: option for name, option in OPTIONS.items() if name != "image"},
)
def up(
    session: Session,
    given: dict[str, Any],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", exists=True, file_okay=False, help="Where the function is."
        ),
    ] = Path(),
    name: Annotated[str, typer.Option(help="Name of the function. Default: the folder's.")] = "",
    image_tag: Annotated[str, typer.Option(help="Tag of the image that is built.")] = "",
    build_arg: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="A build argument; repeatable.")
    ] = None,
) -> None:
    """Build the image in a folder, create or update the function, deploy it.

    The folder needs a Dockerfile, and may have a skybridge.toml that says how the function
    is to run; options win over the file. The function is made to be just as they say. The
    image is built by the engine of DOCKER_HOST, which must be the server's too.
    """
    manifest: Manifest = parsed(load, folder)
    manifest = replace(
        manifest,
        name=name or manifest.name,
        image=image_tag or manifest.image,
        fields={**manifest.fields, **function_fields(given)},
        args=manifest.args | parsed(text.parse_pairs, build_arg or ()),
    )
    if (folder / manifest.dockerfile).exists():
        manifest = build(folder, manifest)
    elif "image" not in manifest.fields:
        raise typer.BadParameter(
            f"{folder} has no {manifest.dockerfile}, and its skybridge.toml names no image"
        )
    apply(session, manifest)
    follow_deployment(session, manifest.name, quiet=session.json)
    function = session.client.get_function(manifest.name)
    if session.form is not Format.TABLE:
        show(function, session.form)
    _say_ready(function)


def build(folder: Path, manifest: Manifest) -> Manifest:
    """Builds the image; returns the manifest with the image in it.

    Unless the folder says otherwise the image is never pulled: it is in no registry.
    """
    tag = manifest.image or manifest.fields.get("image") or f"skybridge-local/{manifest.name}"
    output: deque[str] = deque(maxlen=_TAIL)
    try:
        with Steps() as steps, pack(folder, manifest.dockerfile) as context:
            steps.step(f"building {tag}")
            for message in Engine().build(context, tag, manifest.dockerfile, manifest.args):
                _show_message(message, steps, output)
    except EngineError as error:
        for line in output:
            typer.echo(line, err=True)
        exits.say(f"could not build {tag}: {' '.join(str(error).split())}")
        missing = isinstance(error, EngineMissingError)
        raise typer.Exit(exits.UNAVAILABLE if missing else exits.REFUSED) from None
    return replace(manifest, fields={"pull_policy": "never", **manifest.fields, "image": tag})


def apply(session: Session, manifest: Manifest) -> Function:
    """Creates the function, or makes the one that there is to be as the manifest says."""
    function: Function = parsed(lambda fields: _function(manifest.name, fields), manifest.fields)
    try:
        session.client.get_function(manifest.name)
    except NotFoundError:
        return session.client.create_function(manifest.name, function)
    whole = ("description", "labels", "spec")
    return session.client.update_function(function, update_mask=whole)


def _function(name: str, fields: dict[str, Any]) -> Function:
    try:
        return build_function(Function(name=name), fields)
    except TypeError as error:
        raise ValueError(f"skybridge.toml: {error}") from None


def _show_message(message: dict[str, Any], steps: Steps, output: deque[str]) -> None:
    """Shows one of the engine's messages: a step, output of a step, or a layer that moves."""
    if "stream" in message:
        for line in str(message["stream"]).splitlines():
            if line.strip():
                output.append(line)
            if match := _STEP.match(line):
                steps.count(match[3], int(match[1]), int(match[2]))
    elif "id" in message:
        detail = message.get("progressDetail") or {}
        steps.layer(
            LayerProgress(
                layer=message["id"],
                status=message.get("status", ""),
                current_bytes=detail.get("current", 0),
                total_bytes=detail.get("total", 0),
            )
        )


def _say_ready(function: Function) -> None:
    name = text.short(function.name)
    revision = function.active_revision.rpartition("/")[2]
    if function.state == FunctionState.FUNCTION_STATE_ACTIVE:
        exits.say(f"{name} is ready at revision {revision}; run it with: skybridge run {name}")
    else:
        state = text.word(FunctionState.DESCRIPTOR, function.state)
        exits.say(f"{name} is deployed but {state}; see: skybridge function get {name}")
