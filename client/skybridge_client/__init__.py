"""Typed clients of Skybridge FaaS."""

from __future__ import annotations

__version__ = "0.1.0"
