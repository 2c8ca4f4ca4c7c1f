"""Encrypts what the store keeps of secrets, with a key that is in a file of its own."""

from __future__ import annotations

import hashlib
import hmac
import os
from importlib import import_module
from pathlib import Path

from skybridge_server.errors import FailedPreconditionError, StorageError
from skybridge_server.repositories.backup import to_disk

KEY_BYTES = 32
NONCE_BYTES = 12
"""Drawn at random for each value: good for 2**32 values with one key (NIST SP 800-38D, 8.3)."""


def key_of(database: Path) -> Path:
    """Return the file of the key that goes with a database."""
    return database.with_name(f"{database.name}-key")


class Vault:
    """Seals values with AES-256-GCM, each for the name of its secret: none can take the place of
    another.

    The key is read each time: somebody may put back another one.
    """

    def __init__(self, file: Path) -> None:
        """`file`: where the key is, if there is one."""
        self._file = file

    @property
    def has_key(self) -> bool:
        """Whether there is a key; without, nothing that was sealed can be opened."""
        return self._file.exists()

    def make_key(self) -> None:
        """Make a key where there is none. StorageError."""
        made = self._file.with_name(f"{self._file.name}.new")
        try:
            made.unlink(missing_ok=True)
            with os.fdopen(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as new:
                new.write(os.urandom(KEY_BYTES))
            to_disk(made)
            made.rename(self._file)
            to_disk(self._file.parent)
        except OSError as error:
            message = f"the key {self._file.name} cannot be made: {error.strerror}"
            raise StorageError(message) from error

    def seal(self, value: bytes, name: str) -> bytes:
        """Encrypt the value of a secret. FailedPreconditionError: the key is of no use."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - see load

        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self._read_key()).encrypt(nonce, value, name.encode())

    def open(self, sealed: bytes, name: str) -> bytes:
        """Decrypt what was sealed for a secret. FailedPreconditionError: the key is of no use."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - see load
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - see load

        nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return AESGCM(self._read_key()).decrypt(nonce, rest, name.encode())
        except (InvalidTag, ValueError):  # the latter where it was cut short
            raise self._useless("is not the one that secrets were encrypted with") from None

    def mark(self, value: bytes) -> bytes:
        """Return what tells values apart, and helps nobody without the key to guess one."""
        return hmac.digest(self._read_key(), b"mark\0" + value, hashlib.sha256)

    def _read_key(self) -> bytes:
        try:
            key = self._file.read_bytes()
        except FileNotFoundError:
            raise self._useless("is missing") from None
        except OSError as error:
            raise self._useless(f"cannot be read ({error.strerror})") from error
        if len(key) != KEY_BYTES:
            raise self._useless(f"has {len(key)} bytes and not {KEY_BYTES}")
        return key

    def _useless(self, why: str) -> FailedPreconditionError:
        return FailedPreconditionError(
            f"the key {self._file.name} beside the database {why}: the operator must put back the"
            " one of this database, or delete all secrets",
            reason="SECRETS_SEALED",
        )


def load() -> None:
    """Load what it takes: 8 MiB and 70 ms that servers without secrets do not need."""
    import_module("cryptography.hazmat.primitives.ciphers.aead")
