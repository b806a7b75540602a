"""An A/B test as a page: what it says, how the interval narrowed from look to look, and the figures of each arm."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meguri.base.clock import moment
from meguri.base.extras import need
from meguri.loop import ab
from meguri.loop.page import e, table, write_page
from meguri.loop.plots import WIDE, colour, svg
from meguri.loop.words import Words
from meguri.loop.worth import ab_worth
from meguri.record.experiment import Guard, Reading, Report
from meguri.record.experiment_words import experiment_sentence

if TYPE_CHECKING:
    from meguri.loop.project import Project
    from meguri.record.ledger import Experiment

LOOKS = 24
TALLEST = 6.0  # half-widths of the last interval that a plot shows: the first ones would hide what came of them


def write(path: Path, project: Project, test: Experiment, *, now: datetime, words: Words) -> None:
    """Write the page to ``path`` as one HTML file that asks for nothing else."""
    began, over = moment(test.detail["began"]), ab.ended(project, test)
    until = now if over is None else min(now, over)
    moments = [began + (until - began) * (place / LOOKS) for place in range(1, LOOKS + 1)]
    reports = [ab.look(project, test, now=at).report for at in moments]
    last, title = reports[-1], words("t_ab", test=test.id)
    says = [experiment_sentence(last, "ja" if words.language == "ja" else "en")]
    if money := ab_worth(project, test, last, now=now, words=words):
        says.append(money)
    if ab.known_before(project, test) is not None or test.detail.get("columns"):
        says.append(narrowed(last.primary, words))
    looks = f"<figure>{_plot(moments, reports, words)}</figure><p>{e(words('ab_holds'))}</p>"
    guards = "".join(
        _guard(place, moments, [report.guards[place] for report in reports], words) for place in range(len(last.guards))
    )
    sections = [
        ("says", "", "".join(f"<p>{e(text)}</p>" for text in says)),
        ("looks", words("ab_looks"), looks),
        *([("guards", words("ab_guards"), f"{guards}<p>{e(words('ab_guards_how'))}</p>")] if guards else []),
        ("arms", words("ab_figures"), _figures(test, last, words, over)),
    ]
    made = words("created", at=f"{now.astimezone(UTC):%Y-%m-%d %H:%M}")
    write_page(path, language=words.language, kind=words("kind_ab"), title=title, sections=sections, footer=made)


def narrowed(reading: Reading, words: Words) -> str:
    """How much the interval owes to what was known of the units before the test."""
    if not reading.enough or reading.kept > 0.99:
        return words("ab_not_narrowed")
    return words("ab_narrowed", share=f"{1 - math.sqrt(reading.kept):.0%}", times=f"{1 / reading.kept:.1f}")


def _plot(moments: list[datetime], reports: list[Report], words: Words) -> str:
    """The difference and its interval at each look; a look before enough units has none."""
    shown = [(at, report.primary) for at, report in zip(moments, reports, strict=True) if report.primary.enough]
    if not shown:
        return f"<p>{e(words('ab_few'))}</p>"
    last = shown[-1][1]
    alt = words("ab_alt", metric=last.metric.name, low=f"{last.low:.3g}", high=f"{last.high:.3g}")
    sure = next((at for at, report in zip(moments, reports, strict=True) if report.safe_to_stop), None)
    band = [(at, reading.estimate, reading.low, reading.high) for at, reading in shown]
    title = words("ab_axis", metric=last.metric.name, unit=_unit(last, words))
    return _band("ab", alt, title, band, words, line=0.0, scale=_scale(last), sure=sure, span=moments, tall=2.6)


def _guard(place: int, moments: list[datetime], guards: list[Guard], words: Words) -> str:
    """How much worse B is by a guardrail, between its two limits, and how much is allowed."""
    shown = [(at, guard) for at, guard in zip(moments, guards, strict=True) if guard.reading.enough]
    name, state = guards[-1].reading.metric.name, words.name("state", guards[-1].state)
    head = f"<h3>{e(name)}: {e(state)}</h3>"
    if not shown:
        return f"{head}<p>{e(words('ab_few'))}</p>"
    last = shown[-1][1]
    metric, scale = last.reading.metric, _scale(last.reading)
    least, most = (f"{scale * limit:.3g}" for limit in (last.loses_at_least, last.loses_at_most))
    alt = words("ab_guard_alt", metric=metric.name, low=least, high=most, margin=f"{scale * metric.margin:.3g}")
    band = [(at, -guard.reading.gain[0], guard.loses_at_least, guard.loses_at_most) for at, guard in shown]
    title = words("ab_guard_axis", unit=_unit(last.reading, words))
    sure = next((at for at, guard in shown if guard.state == "worse"), None)
    drawn = _band(
        f"guard{place}", alt, title, band, words, line=metric.margin, scale=scale, sure=sure, span=moments, tall=2.1
    )
    return f"{head}<figure>{drawn}</figure>"


def _scale(reading: Reading) -> float:
    return 100.0 if reading.metric.kind == "rate" else 1.0


def _unit(reading: Reading, words: Words) -> str:
    if reading.metric.kind == "rate":
        return words("ab_points")
    return words("ab_money", unit=words.unit(reading.metric.unit)) if reading.metric.unit else ""


def _band(
    key: str,
    alt: str,
    title: str,
    band: list[tuple[datetime, float, float, float]],
    words: Words,
    *,
    line: float,
    scale: float,
    sure: datetime | None,
    span: list[datetime],
    tall: float,
) -> str:
    """A value within its band over time: (moment, value, low, high); ``line`` is what it is held against, ``sure`` when it decided."""
    at = [when for when, *_ in band]
    middle, low, high = (np.array(column, dtype=np.float64) * scale for column in list(zip(*band, strict=True))[1:])
    half, held = max((high[-1] - low[-1]) / 2, 1e-12), (scale * line, middle[-1])
    floor, top = min(held) - TALLEST * half, max(held) + TALLEST * half

    def draw(figure: Any, width: float) -> None:
        tall = figure.get_size_inches()[1]
        axes = figure.add_axes((0.7 / width, 0.35 / tall, 1 - 0.95 / width, 1 - 0.73 / tall))
        axes.fill_between(at, low, high, color=colour("blue"), alpha=0.25, linewidth=0)
        if len(at) == 1:
            axes.plot([at[0], at[0]], [low[0], high[0]], color=colour("blue"), alpha=0.5, linewidth=4, clip_on=False)
        marker = "o" if len(at) == 1 else None
        axes.plot(at, middle, color=colour("blue"), linewidth=1.8, marker=marker, clip_on=len(at) > 1)
        axes.axhline(scale * line, color=colour("red"), linewidth=1)
        axes.set_ylim(max(min(low.min(), *held), floor), min(max(high.max(), *held), top))
        axes.set_xlim(span[0] - (span[1] - span[0]), span[-1])
        if sure is not None:
            axes.axvline(sure, color=colour("green"), linewidth=1, linestyle=":")
            right = (sure - span[0]) > (span[-1] - span[0]) * 0.6
            axes.annotate(
                words("ab_sure"), (sure, 0.97), (-5 if right else 5, 0), xycoords=("data", "axes fraction"),
                textcoords="offset points", va="top", ha="right" if right else "left", color=colour("green"),
            )  # fmt: skip
        axes.set_title(title)
        axes.grid(axis="y")
        dates, ticker = need("matplotlib.dates"), need("matplotlib.ticker")
        axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=2, maxticks=4 if width < WIDE else 8))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: _when(dates.num2date(x), words)))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5))

    return svg(key, alt, draw, height=(tall, tall - 0.2))


def _when(at: datetime, words: Words) -> str:
    return f"{at:%H:%M}" if (at.hour, at.minute) != (0, 0) else words.day(at)


def _figures(test: Experiment, report: Report, words: Words, over: datetime | None) -> str:
    columns = [
        ("ab_metric", False),
        ("ab_a", True),
        ("ab_b", True),
        ("ab_difference", True),
        ("ab_units", True),
        ("ab_state", False),
    ]
    readings = [(report.primary, report.primary.decision), *((guard.reading, guard.state) for guard in report.guards)]
    rows = [_row(reading, words.name("state", state.replace(" ", "_")), words) for reading, state in readings]
    head = [(words(key), number) for key, number in columns]
    about = words("ab_about", a=test.detail["champion"], b=test.detail["challenger"], began=test.detail["began"][:16])
    if over is not None:
        about += words("ab_over", at=over.astimezone(UTC).isoformat()[:16])
    return f"{table(head, rows)}<p>{e(about)}</p>"


def _row(reading: Reading, state: str, words: Words) -> list[str]:
    limits = f" ({reading.low:.4g} … {reading.high:.4g})" if math.isfinite(reading.low) else ""
    units = f"{reading.units_a:,} / {reading.units_b:,}"
    of = words("ab_money", unit=words.unit(reading.metric.unit)) if reading.metric.unit else ""
    cells = (
        reading.metric.name + of,
        f"{reading.value_a:.4g}",
        f"{reading.value_b:.4g}",
        f"{reading.estimate:.4g}{limits}",
        units,
        state,
    )
    return [e(cell) for cell in cells]
