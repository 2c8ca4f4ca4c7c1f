"""Heads of HTTP/1.1 messages: what is taken, and all that is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.contracts.heads import (
    MAX_HEAD_BYTES,
    Framing,
    check_names,
    find_end,
    parse_request,
    parse_response,
    render_fields,
)
from skybridge_server.errors import InvalidArgumentError, ProtocolError, SkybridgeError

OK = b"HTTP/1.1 200 OK\r\n"


def lines(*fields: bytes) -> bytes:
    return b"HTTP/1.1 200 OK" + b"".join(b"\r\n" + field for field in fields)


def test_a_response() -> None:
    head = parse_response(
        lines(
            b"Content-Type: text/plain",
            b"CONTENT-LENGTH:  5 \t",
            b"X-Empty:",
            b"X-Two: a",
            b"x-two: \xe9",
            b"Connection: keep-alive, X-Mine",
            b"X-Mine: 1",
            b"Keep-Alive: timeout=5",
        )
    )
    assert head.status == 200
    assert head.fields["content-type"] == "text/plain"
    assert head.framing == Framing(length=5, chunked=False, keep_alive=True)
    assert head.headers == {"x-empty": "", "x-two": "a, é"}


@pytest.mark.parametrize(
    ("head", "framing"),
    [
        (b"HTTP/1.1 200", Framing(None, chunked=False, keep_alive=True)),
        (b"HTTP/1.1 200 ", Framing(None, chunked=False, keep_alive=True)),
        (b"HTTP/1.0 200 OK", Framing(None, chunked=False, keep_alive=False)),
        (
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive",
            Framing(None, chunked=False, keep_alive=False),
        ),
        (lines(b"Connection: Close"), Framing(None, chunked=False, keep_alive=False)),
        (lines(b"Transfer-Encoding: Chunked"), Framing(None, chunked=True, keep_alive=True)),
        (lines(b"Content-Length: 0"), Framing(0, chunked=False, keep_alive=True)),
        (
            lines(b"Content-Length: 7", b"Content-Length: 7"),
            Framing(7, chunked=False, keep_alive=True),
        ),
    ],
)
def test_framing(head: bytes, framing: Framing) -> None:
    assert parse_response(head).framing == framing


WRONG = {
    "garbage": b"hello",
    "another protocol": b"SSH-2.0-OpenSSH_9.2",
    "HTTP/2": b"HTTP/2 200",
    "HTTP/1.2": b"HTTP/1.2 200 OK",
    "lower case": b"http/1.1 200 OK",
    "status of two digits": b"HTTP/1.1 20 OK",
    "status of four digits": b"HTTP/1.1 2000 OK",
    "status 099": b"HTTP/1.1 099 OK",
    "status 600": b"HTTP/1.1 600 OK",
    "two spaces": b"HTTP/1.1  200 OK",
    "NUL in the reason": b"HTTP/1.1 200 O\0K",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 5",
    "bare CR": b"HTTP/1.1 200 OK\rContent-Length: 5",
    "LF in a value": lines(b"X: a\nContent-Length: 5"),
    "CR in a value": lines(b"X: a\rb"),
    "NUL in a value": lines(b"X: a\0b"),
    "control character in a value": lines(b"X: a\x7fb"),
    "no colon": lines(b"Content-Length"),
    "no name": lines(b": 5"),
    "space before the colon": lines(b"Content-Length : 5"),
    "folded line": lines(b"X: a", b" b"),
    "folded by a tab": lines(b"X: a", b"\tb"),
    "name with a space": lines(b"Content Length: 5"),
    "name that is no ASCII": lines(b"X-\xe9: 5"),
    "length and encoding": lines(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "different lengths": lines(b"Content-Length: 5", b"Content-Length: 6"),
    "different lengths in one line": lines(b"Content-Length: 5, 6"),
    "negative length": lines(b"Content-Length: -5"),
    "length with a sign": lines(b"Content-Length: +5"),
    "length in hex": lines(b"Content-Length: 0x5"),
    "length with an underscore": lines(b"Content-Length: 1_0"),
    "length in other digits": lines("Content-Length: ²".encode("latin-1")),
    "no length": lines(b"Content-Length:"),
    "enormous length": lines(b"Content-Length: 1000000000000000"),
    "encoding that we did not ask for": lines(b"Transfer-Encoding: gzip, chunked"),
    "chunked twice": lines(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "identity": lines(b"Transfer-Encoding: identity"),
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
    "too many fields": lines(*[b"X: 1"] * 129),
}


@pytest.mark.parametrize("head", WRONG.values(), ids=WRONG)
def test_responses_that_are_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_response(head)


def test_a_request() -> None:
    head = parse_request(b"POST /a/b?c HTTP/1.1\r\nHost: x\r\nContent-Length: 3")
    assert (head.method, head.target) == ("POST", "/a/b?c")
    assert head.fields == {"host": "x", "content-length": "3"}
    assert head.framing == Framing(3, chunked=False, keep_alive=True)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/2",
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET /\0 HTTP/1.1",
        b"GET / HTTP/1.1\nHost: x",
        b"GET / HTTP/1.1\r\nHost x",
        b"P@ST / HTTP/1.1",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
    ],
)
def test_requests_that_are_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_request(head)


@given(head=st.binary(max_size=200), wrong=st.binary(max_size=4), at=st.integers(0, 120))
def test_nothing_else_is_raised(head: bytes, wrong: bytes, at: int) -> None:
    nearly = lines(b"Content-Type: text/plain", b"Content-Length: 5", b"Connection: close")
    for data in (head, OK + head, nearly[:at] + wrong + nearly[at:]):
        for parse in (parse_request, parse_response):
            with contextlib.suppress(ProtocolError):
                parse(data)


def test_where_a_head_ends() -> None:
    assert find_end(b"HTTP/1.1 200 OK\r\n\r\nbody", 0, b"HTTP/1.") == 15
    for part in (b"", b"H", b"HTTP/1.", b"HTTP/1.1 200 OK\r", b"HTTP/1.1 200 OK\r\n\r"):
        assert find_end(part, 0, b"HTTP/1.") == -1


@pytest.mark.parametrize(
    "data",
    [
        b"X",
        b"HTTP/2",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nX: 1\n\n",
        b"HTTP/1.1 200 " + b"x" * MAX_HEAD_BYTES,
        b"HTTP/1.1 200 " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
    ],
)
def test_what_never_becomes_a_head_is_refused_before_its_end(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        find_end(data, 0, b"HTTP/1.")


def test_fields_to_send() -> None:
    assert render_fields({"a": "1", "b-c": "é\t x", "d": ""}) == b"a: 1\r\nb-c: \xe9\t x\r\nd: \r\n"
    check_names({"a": "", "x-!#$%&'*+.^_`|~9": ""})


@given(value=st.text())
def test_a_value_never_starts_a_line(value: str) -> None:
    try:
        sent = render_fields({"a": value, "b": "2"})
    except InvalidArgumentError:
        return
    assert sent.count(b"\n") == sent.count(b"\r") == 2
    assert b"\0" not in sent


@pytest.mark.parametrize("value", ["a\r\nx: 1", "a\nb", "a\rb", "a\0b", "a\x7fb", "日本"])
def test_values_that_are_not_sent(value: str) -> None:
    with pytest.raises(InvalidArgumentError, match="'x' must be one line"):
        render_fields({"x": value})


@pytest.mark.parametrize("name", ["", "a b", "a:", "transfer-encoding: chunked", "a\r\n", "é"])
def test_names_that_are_not_sent(name: str) -> None:
    with pytest.raises(SkybridgeError, match="is no name of a header"):
        check_names({name: "1"})
