"""Blocks of headers (HPACK, RFC 7541): read by a library, and written without a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeAlias, TypeVar

import hpack
from hpack.hpack import Decoder
from hpack.table import HeaderTable

from skybridge_server.http2.errors import BadConnectionError, BadStreamError, ErrorCode

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
T = TypeVar("T")

MAX_HEADERS_BYTES = 16_384
"""Of a request, names and values and 32 bytes for each, as HTTP/2 counts."""

MAX_BLOCK_BYTES = 4 * MAX_HEADERS_BYTES
"""What is read of a request with more than that, so that it alone is refused."""

_MEMORY = 32 * 1024
"""Bytes of headers that one connection's reader remembers, counted in the same way."""
_OVERHEAD = 32


class HeaderReader(Generic[T]):
    """Reads the blocks of one connection, and what they say.

    A caller's requests mostly have the same headers, which HPACK writes as the same few bytes. As
    long as the table behind these bytes does not change, they mean what they meant before.
    """

    def __init__(self, parse: Callable[[Headers], T]) -> None:
        """`parse`: makes of headers what is remembered; BadStreamError if they are wrong."""
        self._parse = parse
        self._table = _WatchedTable(self._forget)
        self._decoder = Decoder(max_header_list_size=MAX_BLOCK_BYTES)
        self._decoder.header_table = self._table
        self._forget()

    def read(self, block: bytes) -> T:
        """Return what a block says; the same object for the same block.

        BadConnectionError, BadStreamError.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        changes = self._table.changes
        headers = self.decode(block)
        size = sum(len(name) + len(value) + _OVERHEAD for name, value in headers)
        if size > MAX_HEADERS_BYTES:
            raise BadStreamError(ErrorCode.ENHANCE_YOUR_CALM, f"{size} bytes of headers")
        parsed = self._parse(headers)
        if self._table.changes == changes:
            self._remember(block, size, parsed)
        return parsed

    def decode(self, block: bytes) -> Headers:
        """Return names and values; each block must be decoded, in order. BadConnectionError."""
        try:
            return tuple((name, value) for name, value in self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            raise BadConnectionError(
                ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_BLOCK_BYTES} bytes of headers"
            ) from None
        except hpack.HPACKError as error:
            raise BadConnectionError(ErrorCode.COMPRESSION_ERROR, str(error)) from None

    def _remember(self, block: bytes, size: int, parsed: T) -> None:
        if size > self._room:
            self._forget()
        if size <= self._room:
            self._room -= size
            self._known[block] = parsed

    def _forget(self) -> None:
        self._known: dict[bytes, T] = {}
        self._room = _MEMORY


class _WatchedTable(HeaderTable):
    """Counts and tells what changes the meaning of later blocks."""

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__()
        self._changed = changed
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self._change()
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, size: int) -> None:
        self._change()
        HeaderTable.maxsize.fset(self, size)  # type: ignore[attr-defined] # of a property

    def _change(self) -> None:
        self.changes += 1
        self._changed()


def block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as literals that no table holds, so that blocks can be sent in any order."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)


DEFAULT_TABLE_BYTES = 4096
NO_TABLE = b"\x20"
"""What blocks must begin with for a peer that wants a smaller table than the default: none."""

STATUS_200 = b"\x88"
"""`:status: 200`, the eighth of the static table."""


def _text(text: bytes) -> bytes:
    """A length of 7 bits and more, and the text as it is."""
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    length -= 0x7F
    prefix = bytearray(b"\x7f")
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + text
