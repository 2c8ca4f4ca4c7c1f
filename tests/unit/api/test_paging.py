"""Page sizes and tokens."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.api import paging
from skybridge_server.models.paging import Cursor, Page, PageRequest
from skybridge_server.services.violations import Violations

SCOPE = ("ListFunctions", "default", "", "")

cursors = st.lists(st.text() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3).map(tuple)


def token_of(cursor: Cursor, scope: paging.Scope = SCOPE) -> str:
    return paging.next_page_token(Page((), cursor), scope)


def read(token: str, scope: paging.Scope = SCOPE, size: int = 0) -> tuple[PageRequest, list[str]]:
    wrong = Violations()
    page = paging.page_request(size, token, scope, wrong)
    return page, [violation.field for violation in wrong]


@given(cursors)
def test_a_token_leads_on(cursor: Cursor) -> None:
    token = token_of(cursor)
    assert read(token) == (PageRequest(50, cursor), [])
    assert token.isascii()
    assert "=" not in token


def test_the_last_page_has_no_token() -> None:
    assert paging.next_page_token(Page((), None), SCOPE) == ""


@pytest.mark.parametrize(("size", "used"), [(0, 50), (1, 1), (1000, 1000), (2**31 - 1, 1000)])
def test_sizes(size: int, used: int) -> None:
    assert read("", size=size) == (PageRequest(used, None), [])


def test_a_negative_size_is_wrong() -> None:
    assert read("", size=-1)[1] == ["page_size"]


@pytest.mark.parametrize("part", range(4))
def test_a_token_of_another_list_is_refused(part: int) -> None:
    other = tuple(text + "x" if n == part else text for n, text in enumerate(SCOPE))
    assert read(token_of(("a",)), other)[1] == ["page_token"]


def test_parts_of_a_scope_do_not_flow_into_each_other() -> None:
    assert read(token_of(("a",), ("L", "ab", "c")), ("L", "a", "bc"))[1] == ["page_token"]


@given(cursors, st.data())
def test_a_token_that_was_tampered_with_is_refused(cursor: Cursor, data: st.DataObject) -> None:
    token = token_of(cursor)
    at = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.characters(exclude_characters=token[at]))
    for tampered in (
        token[:at] + char + token[at + 1 :],
        token[:at] + token[at + 1 :],
        token + char,
    ):
        assert read(tampered)[1] == ["page_token"]


@given(
    st.text(min_size=1) | st.binary(min_size=1).map(lambda b: base64.urlsafe_b64encode(b).decode())
)
def test_no_text_breaks_it(text: str) -> None:
    assert read(text)[1] == ["page_token"]


def test_deep_and_huge_contents_do_not_break_it() -> None:
    for place in (b"[" * 100_000, b"9" * 100_000, b"[" + b"9" * 100_000 + b"]", b"null", b"5"):
        token = base64.urlsafe_b64encode(b"\x01" + b"0" * 16 + place).decode()
        assert read(token)[1] == ["page_token"]
