"""Ids: UUIDs of version 7, in the order of their making, and never twice."""

from __future__ import annotations

import subprocess
import sys
import uuid
from itertools import pairwise

from skybridge_server.models.names import new_id


def test_ids_are_uuids_of_version_7_in_order() -> None:
    ids = [new_id() for _ in range(1000)]
    assert all(str(uuid.UUID(each)) == each for each in ids)
    assert {uuid.UUID(each).version for each in ids} == {7}
    assert {uuid.UUID(each).variant for each in ids} == {uuid.RFC_4122}
    assert all(earlier[:13] <= later[:13] for earlier, later in pairwise(ids))
    assert len({each[14:] for each in ids}) == len(ids)


FORKS = """
import os
from skybridge_server.models.names import new_id
if os.fork():
    os.wait()
print(new_id())
"""


def test_a_forked_process_makes_ids_of_its_own() -> None:
    # In a process that has one thread.
    told = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, check=True, text=True)
    parent, child = told.stdout.split()
    assert parent[14:] != child[14:]
