"""Gives the space of what was deleted back to the file system, without long locks."""

from __future__ import annotations

from peewee import SqliteDatabase

from skybridge_server.repositories.retention import erase

SPARE_PAGES = 64 * 256
"""Free pages, of 4 KiB, that stay: what comes next needs them, and a file that grows costs."""
SPARE_SHARE = 4
"""A quarter of the file may be free for the same reason."""
PAGES_AT_ONCE = 64


def tidy(db: SqliteDatabase) -> bool:
    """Do a small piece of what deletions left to do; tell whether there may be more."""
    return erase(db) or _give_back(db)


def _give_back(db: SqliteDatabase) -> bool:
    """Give some free pages back; tell whether that was possible.

    It is in files whose auto_vacuum is incremental, see schema.py; the file shrinks when the
    write-ahead log is next copied to it.
    """
    free = _pragma(db, "freelist_count")
    surplus = free - max(SPARE_PAGES, _pragma(db, "page_count") // SPARE_SHARE)
    if surplus <= 0:
        return False
    for _ in range(min(surplus, PAGES_AT_ONCE)):
        db.execute_sql("PRAGMA incremental_vacuum(1)")  # Python runs one step, and that is a page
    return _pragma(db, "freelist_count") < free


def _pragma(db: SqliteDatabase, name: str) -> int:
    (value,) = db.execute_sql(f"PRAGMA {name}").fetchone()
    return int(value)
