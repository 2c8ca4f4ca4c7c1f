"""Draws latency against the number of callers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pygal
from pygal.style import CleanStyle

Curves = Mapping[str, Mapping[int, float]]
"""Milliseconds by number of callers, by the name of the curve."""


def draw(curves: Curves, path: Path) -> None:
    """Write an SVG: median latency, both axes logarithmic."""
    chart = pygal.XY(
        logarithmic=True,
        xrange=(1, 256),
        title="Median latency of a call, 1 KiB in and out",
        x_title="callers at once (each one call after the other)",
        y_title="milliseconds",
        legend_at_bottom=True,
        style=CleanStyle(font_family="sans-serif"),
        js=(),  # a picture, not a page
    )
    for name, points in curves.items():
        chart.add(name, sorted(points.items()))
    path.write_bytes(chart.render())
