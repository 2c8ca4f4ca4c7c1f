"""All repositories over one SQLite file."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

from skybridge_server.errors import StorageError
from skybridge_server.repositories.cache import FunctionCache
from skybridge_server.repositories.database import (
    DATABASE_ERRORS,
    Database,
    connect_to,
    lock_file,
)
from skybridge_server.repositories.dead_letters import SqliteDeadLetters
from skybridge_server.repositories.deliveries import SqliteDeliveries
from skybridge_server.repositories.executions import SqliteExecutions
from skybridge_server.repositories.functions import SqliteFunctions
from skybridge_server.repositories.images import SqliteImages
from skybridge_server.repositories.requests import SqliteRequests
from skybridge_server.repositories.revisions import SqliteRevisions
from skybridge_server.repositories.schedules import SqliteSchedules
from skybridge_server.repositories.schema import migrate
from skybridge_server.repositories.secrets import SqliteSecrets
from skybridge_server.repositories.tables import MetaRow
from skybridge_server.repositories.tokens import SqliteTokens
from skybridge_server.repositories.upkeep import tidy
from skybridge_server.repositories.vault import Vault, key_of
from skybridge_server.repositories.waiting import SqliteWaiting


class SqliteRepositories:
    """All repositories of one database file."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        cache = FunctionCache()
        self.functions = SqliteFunctions(database, cache)
        self.revisions = SqliteRevisions(database, cache)
        self.executions = SqliteExecutions(database)
        self.waiting = SqliteWaiting(database)
        self.deliveries = SqliteDeliveries(database)
        self.dead_letters = SqliteDeadLetters(database)
        self.schedules = SqliteSchedules(database)
        self.requests = SqliteRequests(database)
        self.images = SqliteImages(database)
        self.tokens = SqliteTokens(database)
        self.secrets = SqliteSecrets(database, vault)

    @classmethod
    async def open(cls, path: Path) -> SqliteRepositories:
        """Open a database file, made if absent, and bring its tables up to date.

        FailedPreconditionError: another server has it (reason DATABASE_IN_USE), or a newer
        version made it (DATABASE_NEWER). StorageError: it cannot be read or written.
        """
        try:
            lock = await asyncio.to_thread(_prepare, path)
        except (OSError, *DATABASE_ERRORS) as error:
            raise StorageError(f"the database {path} cannot be opened: {error}") from error
        vault = Vault(key_of(path))
        return cls(Database(path, lock, asyncio.get_running_loop()), vault)

    async def server_id(self) -> str:
        query = MetaRow.select(MetaRow.value).where(MetaRow.key == "server_id")
        server_id: str = await self._database.read(query.scalar)
        return server_id

    async def tidy(self) -> bool:
        return await self._database.write(tidy)

    async def close(self) -> None:
        await self._database.close()


def _prepare(path: Path) -> int:
    """Lock the file, make its tables and its identity; return the lock."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = lock_file(path)
    try:
        migrate(path)
        database = connect_to(path)
        with database.connection_context():
            identity = {"key": "server_id", "value": str(uuid.uuid4())}
            MetaRow.insert(identity).on_conflict_ignore().execute(database)
    except BaseException:
        os.close(lock)
        raise
    return lock
