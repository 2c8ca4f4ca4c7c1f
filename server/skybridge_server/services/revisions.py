"""Revisions that were used: they never change, and every execution asks for one."""

from __future__ import annotations

from skybridge_server.models.functions import Revision
from skybridge_server.models.names import RevisionName
from skybridge_server.repositories.base import RevisionRepository

KEPT = 1024


class KnownRevisions:
    """Reads each revision once. For the event loop alone."""

    def __init__(self, revisions: RevisionRepository) -> None:
        self._revisions = revisions
        self._known: dict[tuple[str, int], Revision] = {}
        """By uid of the function and number."""

    def find(self, function_uid: str, number: int) -> Revision | None:
        """Return a revision that was read before."""
        return self._known.get((function_uid, number))

    async def get(self, function_uid: str, name: RevisionName) -> Revision:
        """Return a revision. NotFoundError."""
        key = (function_uid, name.number)
        revision = self._known.get(key)
        if revision is None:
            revision = await self._revisions.get(name)
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[key] = revision
        return revision
