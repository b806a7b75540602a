"""Plots of data: two distributions of one column, the one drawn over the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meguri.base.extras import need
from meguri.loop.plots import WIDE, colour, fit, measure, svg

OLD, NEW = "blue", "red"
LEFT, RIGHT = 0.55, 0.25  # inches
MOST_LABELS = 12


def histograms(
    key: str,
    alt: str,
    names: tuple[str, str],
    edges: Sequence[float],
    shares: tuple[Sequence[float], Sequence[float]],
    *,
    label: str,
) -> str:
    """Shares of rows in common bars of a number: the old table filled, the new one as a line."""

    def draw(figure: Any, width: float) -> None:
        axes = _axes(figure, bottom=0.28)
        old, new = ([100 * share for share in side] for side in shares)
        axes.stairs(old, edges, fill=True, color=colour(OLD), alpha=0.35)
        axes.stairs(old, edges, color=colour(OLD), linewidth=0.8)
        axes.stairs(new, edges, color=colour(NEW), linewidth=1.8)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, max([*old, *new, 1e-9]) * 1.12)
        axes.grid(axis="y")
        ticker = need("matplotlib.ticker")
        axes.yaxis.set_major_locator(ticker.MaxNLocator(4))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5 if width < WIDE else 9))
        axes.ticklabel_format(useOffset=False)
        if max(abs(edges[0]), abs(edges[-1])) >= 1e6:
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        _legend(axes, names, label, width)

    return svg(key, alt, draw, height=(1.9, 1.9))


def pairs(
    key: str,
    alt: str,
    names: tuple[str, str],
    labels: Sequence[str],
    shares: tuple[Sequence[float], Sequence[float]],
    *,
    label: str,
) -> str:
    """Shares of rows with each value, a pair of bars for each."""
    shown = list(range(min(len(labels), MOST_LABELS)))

    def draw(figure: Any, width: float) -> None:
        longest = max((measure(labels[i]) for i in shown), default=9)
        room = min(longest / 72 + 0.25, 2.4 if width == WIDE else 1.2)
        axes = _axes(figure, left=room, bottom=0.28)
        for place, (side, name) in enumerate(zip(shares, (OLD, NEW), strict=True)):
            at = [i + (0.2 if place else -0.2) for i in shown]
            axes.barh(at, [100 * side[i] for i in shown], height=0.36, color=colour(name), alpha=0.8 if place else 0.5)
        axes.set_yticks(shown, [fit(labels[i], room * 72 - 10) for i in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, max([100 * share for side in shares for share in side] or [1]) * 1.05 or 1)
        axes.tick_params(axis="y", length=0, labelcolor=colour("ink"))
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(need("matplotlib.ticker").MaxNLocator(5))
        _legend(axes, names, label, width)

    return svg(key, alt, draw, height=max(0.24 * len(shown) + 0.75, 1.2))


def _axes(figure: Any, *, left: float = LEFT, bottom: float) -> Any:
    width, height = figure.get_size_inches()
    top = 0.38
    return figure.add_axes((left / width, bottom / height, 1 - (left + RIGHT) / width, 1 - (top + bottom) / height))


def _legend(axes: Any, names: tuple[str, str], label: str, width: float) -> None:
    """What is on the axis, and the two names in their colours, above the plot."""
    axes.set_title(label)
    room, shift = 90 if width < WIDE else 230, 0.0
    for name, chosen in ((names[1], NEW), (names[0], OLD)):
        text = f"■ {fit(name, room)}"
        axes.annotate(
            text,
            (1, 1),
            (-shift, 6),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=colour(chosen),
        )
        shift += measure(text) + 14
