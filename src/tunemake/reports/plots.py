"""Curves as SVG for a page in light and dark: matplotlib draws, the page's style sheet gives the colours.

All text in a drawing is ours, and numbers; what comes from a project or a model stands in the page beside it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 400  # points of a curve; more are averaged
COLOURS = 8  # that the style sheet has, --s1 to --s8
_INK = "#010203"  # stands for the page's own colour; 0101xx for --sxx
_SIZE = 4.4, 2.3  # inches, as wide as a phone shows without the text getting small
_STYLE: dict[Any, Any] = {"font.size": 10, "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False,
          "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK,
          "ytick.color": _INK, "axes.grid": True, "grid.alpha": 0.15, "grid.color": _INK,
          "text.parse_math": False}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """A curve of a plot. colour: 1 to COLOURS. faint: as background; dots: its points are marked."""

    x: Sequence[float]
    y: Sequence[float]
    colour: int = 1
    faint: bool = False
    dots: bool = False


def plot(
    name: str, curves: Sequence[Curve], y_label: str, *, bounds: Sequence[float] = (), chosen: float | None = None
) -> str:
    """Draw curves over iterations; "" where there is no number to draw.

    name: of the plot, unlike any other on its page. bounds: dashed across. chosen: the iteration that is marked.
    """
    shown = [Curve(*_finite(curve), curve.colour, curve.faint, curve.dots) for curve in curves]
    if not any(curve.x for curve in shown):
        return ""

    def draw(axes: Axes) -> None:
        for curve in shown:
            axes.plot(
                curve.x, curve.y, color=_colour(curve.colour), alpha=0.35 if curve.faint else 1,
                linewidth=1 if curve.faint else 1.7, marker="o" if curve.dots else None, markersize=4,
            )  # fmt: skip
        for bound in bounds:
            axes.axhline(bound, color=_INK, alpha=0.6, linewidth=1, linestyle=(0, (4, 3)))
        if chosen is not None:
            axes.axvline(chosen, color=_colour(3), linewidth=1.2, alpha=0.8)
        axes.set_xlabel("iteration")
        axes.set_ylabel(y_label)

    return _drawn(name, draw)


def histogram(name: str, values: Sequence[int], x_label: str, *, limit: float | None = None) -> str:
    """Draw how often values lie where; "" where there are none. limit: marked across."""
    if not values:
        return ""

    def draw(axes: Axes) -> None:
        axes.hist(values, bins=min(40, max(5, len(set(values)))), color=_colour(1), alpha=0.85)
        if limit is not None:
            axes.axvline(limit, color=_INK, alpha=0.6, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel(x_label)
        axes.set_ylabel("samples")

    return _drawn(name, draw)


def thinned(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], most: int = MOST) -> list[dict[str, float]]:
    """Give the means of neighbouring rows, such that there are at most so many."""
    step = math.ceil(len(rows) / most) or 1
    chunks = [rows[first : first + step] for first in range(0, len(rows), step)]
    return [{key: sum(row[key] for row in chunk) / len(chunk) for key in keys} for chunk in chunks]


def smoothed(values: Sequence[float], span: int) -> list[float]:
    """Give an exponential moving average: s = s + (v - s) · 2 / (span + 1), as pandas' ewm(span) without adjustment."""
    share, found = 2 / (span + 1), list[float]()
    for value in values:
        last = found[-1] if found and math.isfinite(found[-1]) else value
        found.append(last + (value - last) * share if math.isfinite(value) else last)
    return found


def _finite(curve: Curve) -> tuple[list[float], list[float]]:
    pairs = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _colour(number: int) -> str:
    return f"#0101{(number - 1) % COLOURS + 1:02d}"


def _drawn(name: str, draw: Callable[[Axes], None]) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = FigureCanvasSVG(figure).figure.subplots()
        draw(axes)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_axisbelow(True)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_a_page(drawn.getvalue())


def _for_a_page(svg: str) -> str:
    """Take out what a page has itself, and give colours, fonts and width to its style sheet."""
    svg = svg[svg.index("<svg") :]
    for pattern, text in (
        (r"<metadata>.*?</metadata>|<style type=\"text/css\">.*?</style>|<!--.*?-->", ""),
        (r" xmlns(:xlink)?=\"[^\"]*\"", ""),
        (r"xlink:href", "href"),
        (r" id=\"[^\"_]*_[0-9]+\"", ""),  # they would be on the page once for each plot
        (r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1"),
        (r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1"),
        (r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1"),
        (_INK, "currentColor"),
        (r"#01010(\d)", r"var(--s\1)"),
        (r"\n\s*", "\n"),
    ):
        svg = re.sub(pattern, text, svg, flags=re.DOTALL)
    return svg.strip()
