"""Log lines, ours and those of libraries."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator

import pytest
import structlog

from skybridge_server import log
from skybridge_server.config import LogFormat, LogLevel


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines_hold_context_and_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(LogFormat.JSON, LogLevel.INFO)
    logger = structlog.get_logger()
    logger.debug("unseen")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        try:
            os.environ["LOST"]
        except KeyError:
            logger.exception("broke", execution="e1")
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    entry = json.loads(line)
    assert captured.out == ""
    assert (entry["event"], entry["level"]) == ("broke", "error")
    assert (entry["request_id"], entry["execution"]) == ("r1", "e1")
    assert "KeyError: 'LOST'" in entry["exception"]


def test_libraries_look_the_same_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(LogFormat.JSON, LogLevel.DEBUG)
    logging.getLogger("lib").info("unseen")
    logging.getLogger("lib").warning("seen %s", 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "seen 1"


def test_lines_for_people_show_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(LogFormat.CONSOLE, LogLevel.INFO)
    try:
        secret = "geheim"
        [][len(secret)]
    except IndexError:
        structlog.get_logger().exception("broke")
    shown = capsys.readouterr().err
    assert "broke" in shown
    assert "IndexError" in shown
    assert "secret " not in shown


def test_auto_is_json_unless_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        assert log.as_json(LogFormat.AUTO) is not terminal
    assert log.as_json(LogFormat.JSON)
    assert not log.as_json(LogFormat.CONSOLE)
