"""Lets `python -m skybridge_server` be `skybridge-server`."""

from __future__ import annotations

from skybridge_server.cli import main

main()
