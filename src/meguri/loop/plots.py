"""Plots: the door of matplotlib, which draws a picture as SVG in two widths, one for a desk and one for a phone."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from unicodedata import category, east_asian_width

from meguri.base.extras import need
from meguri.loop.words import Words

# Okabe and Ito's palette, distinct for colour-blind readers; each a CSS variable of the page, which dark mode changes.
COLOURS = {
    "#0072b2": "blue",
    "#d55e00": "red",
    "#009e73": "green",
    "#e69f00": "orange",
    "#cc79a7": "pink",
    "#1b1b1d": "ink",
    "#6b6b6f": "soft",
    "#d7d7db": "rule",
    "#fdfdfe": "paper",
}
_C = {name: value for value, name in COLOURS.items()}
_POLICY = {"loop": ("blue", "o", "-"), "never": ("red", "s", "--"), "always": ("green", "^", "-.")}
_OTHER = (("pink", "D", ":"), ("orange", "v", "--"), ("soft", "P", ":"))
_KIND = {
    "released": ("green", "o", 7),
    "refused": ("red", "X", 9),
    "unsure": ("orange", "D", 7),
    "failed": ("soft", "s", 7),
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: the reader's own fonts draw Japanese
    "svg.hashsalt": "meguri",
    "text.parse_math": False,  # a "$" in a name is a dollar sign
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("xtick.color", "ytick.color", "grid.color", "axes.edgecolor"), _C["rule"]),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor", "axes.labelcolor", "axes.titlecolor"), _C["soft"]),
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "text.color": _C["ink"],
    "grid.linewidth": 0.6,
}
WIDE, NARROW = 8.6, 3.75  # inches; a point is 4/3 CSS pixels at full size, so 9 pt reads as 12 px in both

Span = tuple[datetime, datetime]
Draw = Callable[[Any, float], None]


class Row(NamedTuple):
    """One turn on the timeline: what it says, how it ended, and until when its release was live."""

    time: datetime
    text: str
    kind: str
    until: datetime | None


def style(policy: str, place: int) -> tuple[str, str, str]:
    """Colour, marker and dash of a policy."""
    colour, marker, dash = _POLICY.get(policy) or _OTHER[place % len(_OTHER)]
    return _C[colour], marker, dash


def colour(name: str) -> str:
    """The colour of this name in the palette."""
    return _C[name]


def plain(text: str) -> str:
    """``text`` on one line; control characters and halves of characters are made visible."""
    return " ".join("".join(c if c.isspace() or category(c) not in ("Cc", "Cs") else "\ufffd" for c in text).split())


def measure(text: str, size: float = 9) -> float:
    """About the width of ``text`` in points, in whatever font its reader has."""
    return size * sum(1 if east_asian_width(sign) in "WF" else 0.54 for sign in text)


def fit(text: str, points: float, size: float = 9) -> str:
    """``text`` on one line, cut with an ellipsis to about ``points`` of width."""
    text = plain(text)
    if measure(text, size) <= points:
        return text
    while text and measure(text, size) > points - size:
        text = text[:-1]
    return text + "…"


def svg(key: str, alt: str, draw: Draw, *, height: float | tuple[float, float]) -> str:
    """Two inline SVG elements, of class ``wide`` and ``narrow``, drawn by ``draw(figure, width in inches)``.

    ``height`` in inches, or one for each width. ``key`` makes their ids unique in a page; ``alt`` is read out.
    The same picture gives the same bytes. Global settings of matplotlib are as before when it returns.
    """
    matplotlib, figures = need("matplotlib"), need("matplotlib.figure")
    heights = height if isinstance(height, tuple) else (height, height)
    parts = []
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Only the reader's browser needs the glyphs: here they are measured, not drawn.
        warnings.filterwarnings("ignore", message=r"Glyph \d+", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        for kind, width, tall in (("wide", WIDE, heights[0]), ("narrow", NARROW, heights[1])):
            figure = figures.Figure(figsize=(width, tall))
            draw(figure, width)
            out = io.StringIO()
            figure.savefig(out, format="svg")
            parts.append(_inline(out.getvalue(), f"{key}-{kind}", kind, alt))
    return "\n".join(parts)


def _inline(text: str, key: str, kind: str, alt: str) -> str:
    """matplotlib's SVG file as an element of a page: no prolog, no outside address, own ids, colours of the page."""
    box = re.search(r'viewBox="([^"]*)"', text)
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', body))

    def own(found: re.Match[str]) -> str:  # one tag; text between tags, which may come from data, is left alone
        tag = re.sub(r' id="([^"]*)"', lambda name: f' id="{key}-{name[1]}"' if name[1] in used else "", found[0])
        tag = tag.replace('xlink:href="#', f'href="#{key}-').replace("url(#", f"url(#{key}-")
        return re.sub("|".join(COLOURS), lambda colour: f"var(--{COLOURS[colour[0]]})", tag)

    body = re.sub(r"<[^>]+>", own, body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    label = html.escape(plain(alt))
    return f'<svg class="{kind}" role="img" aria-label="{label}" viewBox="{box[1] if box else ""}">{body}</svg>'


def _axes(figure: Any, *, left: float, right: float, top: float = 0.3, bottom: float = 0.5) -> Any:
    """Axes with margins in inches: text is not measured, as the reader's font is unknown."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))


def _days(at: datetime, since: datetime) -> float:
    return (at - since) / timedelta(days=1)


def length(span: Span) -> float:
    """Days, at least one."""
    return max(_days(span[1], span[0]), 1.0)


def _time_axis(axes: Any, span: Span, words: Words, label: str) -> None:
    """Days since ``since`` as an axis of months, or of days when the span is short; few enough labels to read."""
    (since, until), days = span, length(span)
    room = axes.get_window_extent().width / 42
    if days >= 60:
        year, month, ticks = since.year, since.month, []
        while (at := since.replace(year=year, month=month, day=1, hour=0, minute=0, second=0, microsecond=0)) <= until:
            ticks.append(at)
            year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        texts = [str(at.year) if at.month == 1 else words.month(at) for at in ticks]
    else:
        stride = max(1, round(days / 8))
        ticks = [since + timedelta(days=n) for n in range(0, int(days) + 1, stride)]
        texts = [words.day(at) for at in ticks]
    skip = max(1, -(-len(ticks) // max(1, int(room))))
    shown = [(_days(at, since), text) for at, text in zip(ticks, texts, strict=True)][::skip]
    shown = [(at, text) for at, text in shown if 0 <= at < days]
    axes.set_xlim(0, days)
    axes.set_xticks([at for at, _ in shown], [text for _, text in shown])
    last = (until - timedelta(microseconds=1)).year
    years = f"{since.year}" if last == since.year else f"{since.year}–{last}"
    axes.set_xlabel(f"{label}（{years}年）" if words.language == "ja" else f"{label} ({years})")


def _apart(axes: Any, labels: Sequence[tuple[float, float, str, str]], gap: float = 12) -> None:
    """Texts at (x, y) in data units, beside their lines, moved up or down until ``gap`` points lie between them."""
    points = axes.figure.dpi / 72
    placed = -1e9
    for x, y, text, colour in sorted(labels, key=lambda label: label[1]):
        own = axes.transData.transform((x, y))[1] / points
        placed = max(own, placed + gap)
        _note(axes, text, (x, y), (7, placed - own), color=colour)


def _note(axes: Any, text: str, at: tuple[float, float], shift: tuple[float, float], **more: Any) -> None:
    """A text ``shift`` points away from a place in data units."""
    axes.annotate(text, at, shift, textcoords="offset points", va="center", annotation_clip=False, **more)


def live(
    key: str,
    alt: str,
    words: Words,
    *,
    label: str,
    series: Mapping[str, Sequence[tuple[datetime, float]]],
    releases: Sequence[datetime],
    span: Span,
) -> str:
    """A metric over time, a line for each policy, with dotted lines where the loop released."""

    def draw(figure: Any, _: float) -> None:
        axes = _axes(figure, left=0.5, right=0.75)
        _time_axis(axes, span, words, words("x_month"))
        axes.set_title(label)
        axes.grid(axis="y")
        axes.margins(y=0.12)
        for at in releases:
            axes.axvline(_days(at, span[0]), color=_C["blue"], linewidth=0.8, linestyle=":", alpha=0.7)
        ends = []
        for place, (policy, points) in reversed(list(enumerate(series.items()))):
            colour, marker, dash = style(policy, place)
            x, y = [_days(at, span[0]) for at, _ in points], [value for _, value in points]
            bold = 2.2 if policy == "loop" else 1.3
            axes.plot(x, y, color=colour, marker=marker, linestyle=dash, linewidth=bold, markersize=5, mec=_C["paper"])
            ends.append((x[-1], y[-1], fit(words.name("short", policy), 70), colour))
        axes.autoscale_view(scalex=False)
        axes.ticklabel_format(axis="y", useOffset=False)
        ticks = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks())
        left = max(0.5, max(map(measure, ticks)) / 72 + 0.14)  # figures that are close need many digits
        box, wide = axes.get_position(), figure.get_size_inches()[0]
        axes.set_position((left / wide, box.y0, box.x1 - left / wide, box.height))
        _apart(axes, ends)

    return svg(key, alt, draw, height=2.9)


def turns(key: str, alt: str, words: Words, rows: Sequence[Row], *, span: Span) -> str:
    """Turns from the first, on top, to the latest; a bar for the time in which a turn's release was live."""
    step, height = 0.36, 0.36 * len(rows) + 0.8

    def draw(figure: Any, width: float) -> None:
        axes = _axes(figure, left=0.12, right=0.12, top=0.1, bottom=0.6)
        _time_axis(axes, span, words, words("x_time"))
        axes.set_ylim(len(rows) - 0.35, -0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        days = length(span)
        for place, row in enumerate(rows):
            colour, marker, size = _KIND[row.kind]
            x = min(max(_days(row.time, span[0]), 0.0), days)
            if row.until is not None:
                end = min(max(_days(row.until, span[0]), x), days)
                axes.plot([x, end], [place, place], color=_C[colour], linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.plot([x], [place], color=_C[colour], marker=marker, markersize=size, mec=_C["paper"], clip_on=False)
            room, place_in = (width - 0.24) * 72, x / days * (width - 0.24) * 72
            text = fit(row.text, room, 8.2)
            long, up = measure(text, 8.2), step * 72 * 0.44
            if place_in + long <= room:
                _note(axes, text, (x, place), (-3, up), fontsize=8.2)
            else:  # no room to the right: to the left of the mark, or as far right as the text fits
                _note(axes, text, (x if long <= place_in else days, place), (3, up), ha="right", fontsize=8.2)

    return svg(key, alt, draw, height=height)


def reliability(key: str, alt: str, words: Words, bins: Mapping[str, Sequence[tuple[float, float, int]]]) -> str:
    """Promised against real frequency, the counts of the loop's bins below; a bin is (mean score, share, rows)."""

    def draw(figure: Any, width: float) -> None:
        size, tall = figure.get_size_inches()
        side = min(3.4, size - 1.25)
        if width == WIDE:  # the counts beside the curve, or below it
            low, box = 0.5 / tall, ((side + 2.0) / size, 0.5 / tall, 2.7 / size, side / 2 / tall)
        else:
            low, box = 1.45 / tall, (0.55 / size, 0.5 / tall, side / size, 0.55 / tall)
        axes = figure.add_axes((0.55 / size, low, side / size, side / tall))
        counts = figure.add_axes(box)
        axes.plot([0, 100], [0, 100], color=_C["soft"], linewidth=1, linestyle=":")
        ends = [(100.0, 100.0, words("perfect"), _C["soft"])]
        for place, (policy, found) in reversed(list(enumerate(bins.items()))):
            colour, marker, dash = style(policy, place)
            x, y = [100 * score for score, _, _ in found], [100 * share for _, share, _ in found]
            bold = 2.0 if policy == "loop" else 1.2
            axes.plot(x, y, color=colour, marker=marker, linestyle=dash, linewidth=bold, mec=_C["paper"])
            ends.append((x[-1], y[-1], fit(words.name("short", policy), 70), colour))
        axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 20), yticks=range(0, 101, 20))
        axes.set_title(words("y_share"))
        axes.grid()
        axes.set_xlabel(words("x_score") if width == WIDE else "")
        axes.tick_params(labelbottom=width == WIDE)
        _apart(axes, ends)
        edges, tops = [min(int(10 * score), 9) * 10 for score, *_ in bins["loop"]], [rows for *_, rows in bins["loop"]]
        counts.bar(edges, tops, width=9, align="edge", color=style("loop", 0)[0], alpha=0.6)
        counts.set(xlim=(0, 100), xticks=range(0, 101, 20), xlabel=words("x_score"))
        counts.set_title(words("y_count"))
        counts.set_yticks([0, max(tops)])
        counts.yaxis.set_major_formatter(lambda value, _: compact(value))

    return svg(key, alt, draw, height=(4.3, 4.3))


def actual(key: str, alt: str, words: Words, groups: Sequence[tuple[float, float, float, float]]) -> str:
    """Predicted against actual values: (mean predicted, mean actual, 10th, 90th percentile) for each group."""

    def draw(figure: Any, _: float) -> None:
        size, tall = figure.get_size_inches()
        side = min(3.6, size - 0.9)
        axes = figure.add_axes((0.65 / size, 0.5 / tall, side / size, side / tall))
        x, y, low, high = (list(column) for column in zip(*groups, strict=True))
        ends = [min(x + low), max(x + high)]
        pad = (ends[1] - ends[0]) * 0.05 or 1.0
        ends = [ends[0] - pad, ends[1] + pad]
        axes.plot(ends, ends, color=_C["soft"], linewidth=1, linestyle=":")
        axes.vlines(x, low, high, color=_C["blue"], linewidth=3, alpha=0.35)
        axes.plot(x, y, color=_C["blue"], marker="o", linewidth=0, mec=_C["paper"])
        axes.set(xlim=ends, ylim=ends, xlabel=words("x_predicted"))
        axes.set_title(words("y_actual"))
        axes.xaxis.set_major_locator(need("matplotlib.ticker").MaxNLocator(5))
        axes.grid()

    return svg(key, alt, draw, height=(4.4, 3.7))


def awaited(key: str, alt: str, words: Words, points: Sequence[tuple[datetime, int, int]], *, span: Span) -> str:
    """Predictions without a label over time, those overdue below those that are not: (time, awaited, overdue)."""

    def draw(figure: Any, _: float) -> None:
        axes = _axes(figure, left=0.6, right=0.85)
        x = [_days(at, span[0]) for at, _, _ in points]
        late, both = [late for *_, late in points], [count for _, count, _ in points]
        axes.fill_between(x, 0, late, color=_C["red"], alpha=0.45, linewidth=0)
        axes.fill_between(x, late, both, color=_C["blue"], alpha=0.3, linewidth=0)
        axes.plot(x, late, color=_C["red"], linewidth=1.2)
        axes.plot(x, both, color=_C["blue"], linewidth=1.2)
        _time_axis(axes, span, words, words("x_time"))
        axes.set_ylim(0, max([*both, 1]) * 1.12)
        axes.set_title(words("y_awaited"))
        axes.yaxis.set_major_formatter(lambda value, _: compact(value))
        axes.grid(axis="y")
        labels = [(x[-1], late[-1] / 2, words("overdue"), _C["red"])] if late[-1] else []
        _apart(axes, [*labels, (x[-1], (late[-1] + both[-1]) / 2, words("not_due"), _C["blue"])])

    return svg(key, alt, draw, height=2.7)


def bars(key: str, alt: str, rows: Sequence[tuple[str, float, str, str]], *, label: str) -> str:
    """A bar for each (name, value, text of the value, colour), its name above it, where long names have room."""

    def draw(figure: Any, width: float) -> None:
        axes = _axes(figure, left=0.05, right=0.85, top=0.05)
        most = max(value for _, value, *_ in rows) or 1.0
        for place, (name, value, text, colour) in enumerate(rows):
            axes.barh([place], [value], height=0.42, color=colour, alpha=0.75)
            _note(axes, fit(name, (width - 0.1) * 72), (0, place), (0, 15))
            _note(axes, text, (value, place), (4, 0), color=_C["soft"])
        axes.set(xlim=(0, most), ylim=(len(rows) - 0.6, -0.9), yticks=[], xlabel=label)
        axes.xaxis.set_major_locator(need("matplotlib.ticker").MaxNLocator(4 if width < WIDE else 8))
        axes.xaxis.set_major_formatter(lambda value, _: compact(value))
        axes.spines["left"].set_visible(False)

    return svg(key, alt, draw, height=0.46 * len(rows) + 0.75)


def drift(
    key: str, alt: str, names: Sequence[str], months: Sequence[str], cells: Sequence[Sequence[float | None]]
) -> str:
    """PSI of each feature (row) and month (column), in three tints: under 0.1, to 0.2, over."""

    def draw(figure: Any, width: float) -> None:
        left = min(max(len(fit(name, 999)) for name in names) * 0.075 + 0.15, 2.6 if width == WIDE else 1.15)
        axes = _axes(figure, left=left, right=0.05, top=0.05, bottom=0.35)
        tints: dict[float, list[tuple[int, int]]] = {}
        for row, values in enumerate(cells):
            for column, value in enumerate(values):
                tint = 0.0 if value is None else 0.06 if value < 0.1 else 0.25 if value <= 0.2 else 0.55
                tints.setdefault(tint, []).append((column, row))
                text = "–" if value is None else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"[1:]
                strong = value is not None and value > 0.2
                axes.text(
                    column, row, text, ha="center", va="center", fontsize=8, weight="bold" if strong else "normal"
                )
        for tint, places in tints.items():
            columns, bottoms = [column for column, _ in places], [row - 0.47 for _, row in places]
            axes.bar(columns, 0.94, bottom=bottoms, width=0.95, color=_C["red"], alpha=tint, linewidth=0)
        axes.set(xlim=(-0.5, len(months) - 0.5), ylim=(len(names) - 0.5, -0.5))
        axes.set_xticks(range(len(months)), months, fontsize=9 if width == WIDE or len(months) < 8 else 7.5)
        axes.set_yticks(range(len(names)), [fit(name, left * 72 - 8) for name in names])
        axes.tick_params(length=0, labelcolor=_C["ink"])
        for side in axes.spines.values():
            side.set_visible(False)

    return svg(key, alt, draw, height=0.27 * len(names) + 0.45)


def compact(value: float) -> str:
    """A count short enough for an axis: ``950``, ``12k``, ``3.4M``."""
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:g}"
