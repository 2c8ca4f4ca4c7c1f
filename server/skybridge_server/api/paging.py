"""`page_size` and `page_token`: pages by keyset.

A token holds where the next page starts and a hash over that and the list it belongs to: the rpc
and all of its fields but `page_size`. Everything else is refused, whatever it holds. The hash
guards against mistakes, not against a forger, who could only start a page elsewhere in a list that
is open to him anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

from skybridge_server.models.paging import Cursor, Page, PageRequest
from skybridge_server.services.violations import Violations

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

Scope = tuple[str, ...]
"""The rpc and the fields that make the list what it is."""

_VERSION = b"\x01"
_HASH_BYTES = 16


def page_request(size: int, token: str, scope: Scope, wrong: Violations) -> PageRequest:
    """Check the fields `page_size` and `page_token`."""
    if size < 0:
        wrong.add("page_size", f"must be 0, for {DEFAULT_PAGE_SIZE}, or more; is {size}")
    after = _decode(token, scope) if token else None
    if token and after is None:
        wrong.add(
            "page_token",
            "must be the next_page_token of a list with the same other fields; leave it empty to"
            " start over",
        )
    return PageRequest(min(size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE), after)


def next_page_token(page: Page[Any], scope: Scope) -> str:
    """Return the token of the page after this one; '' if this is the last."""
    return "" if page.next is None else _encode(page.next, scope)


def _encode(cursor: Cursor, scope: Scope) -> str:
    place = json.dumps(cursor).encode()
    mark = hashlib.blake2b(json.dumps([scope, cursor]).encode(), digest_size=_HASH_BYTES).digest()
    return base64.urlsafe_b64encode(_VERSION + mark + place).decode().rstrip("=")


def _decode(token: str, scope: Scope) -> Cursor | None:
    """Return the cursor of a token; None if it is none of ours, or of another list."""
    try:
        data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        cursor = tuple(json.loads(data[len(_VERSION) + _HASH_BYTES :]))
    except (ValueError, TypeError, RecursionError, binascii.Error):
        return None
    # One token stands for one place: what is not written exactly so was tampered with.
    return cursor if _encode(cursor, scope) == token else None
