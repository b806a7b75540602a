"""An A/B test as a page: what it says, how the interval narrowed from look to look, and the figures of each arm."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meguri.base.clock import moment
from meguri.base.extras import need
from meguri.loop import ab
from meguri.loop.page import e, table, write_page
from meguri.loop.plots import WIDE, colour, svg
from meguri.loop.words import Words
from meguri.loop.worth import ab_worth
from meguri.record.experiment import Reading, Report
from meguri.record.experiment_words import experiment_sentence

if TYPE_CHECKING:
    from meguri.loop.project import Project
    from meguri.record.ledger import Experiment

LOOKS = 24


def write(path: Path, project: Project, test: Experiment, *, now: datetime, words: Words) -> None:
    """Write the page to ``path`` as one HTML file that asks for nothing else."""
    began = moment(test.detail["began"])
    moments = [began + (now - began) * (place / LOOKS) for place in range(1, LOOKS + 1)]
    reports = [ab.look(project, test, now=at).report for at in moments]
    last, title = reports[-1], words("t_ab", test=test.id)
    money = ab_worth(project, test, last, now=now, words=words)
    says = experiment_sentence(last, "ja" if words.language == "ja" else "en")
    sections = [
        ("says", "", f"<p>{e(says)}</p>" + (f"<p>{e(money)}</p>" if money else "")),
        ("looks", words("ab_looks"), f"<figure>{_plot(moments, reports, words)}</figure><p>{e(words('ab_holds'))}</p>"),
        ("arms", words("ab_figures"), _figures(test, last, words)),
    ]
    made = words("created", at=f"{now.astimezone(UTC):%Y-%m-%d %H:%M}")
    write_page(path, language=words.language, kind=words("kind_ab"), title=title, sections=sections, footer=made)


def _plot(moments: list[datetime], reports: list[Report], words: Words) -> str:
    """The difference and its interval at each look; a look before enough units has none."""
    shown = [(at, report.primary) for at, report in zip(moments, reports, strict=True) if report.primary.enough]
    if not shown:
        return f"<p>{e(words('ab_few'))}</p>"
    last = shown[-1][1]
    alt = words("ab_alt", metric=last.metric.name, low=f"{last.low:.3g}", high=f"{last.high:.3g}")
    scale = 100 if last.metric.kind == "rate" else 1
    unit = words("ab_money", unit=words.unit(last.metric.unit)) if last.metric.unit else ""
    unit = words("ab_points") if scale == 100 else unit

    def draw(figure: Any, width: float) -> None:
        tall = figure.get_size_inches()[1]
        axes = figure.add_axes((0.7 / width, 0.35 / tall, 1 - 0.95 / width, 1 - 0.73 / tall))
        at = [when for when, _ in shown]
        low, high = ([scale * getattr(reading, name) for _, reading in shown] for name in ("low", "high"))
        axes.fill_between(at, low, high, color=colour("blue"), alpha=0.25, linewidth=0)
        axes.plot(at, [scale * reading.estimate for _, reading in shown], color=colour("blue"), linewidth=1.8)
        axes.axhline(0, color=colour("red"), linewidth=1)
        axes.set_title(words("ab_axis", metric=last.metric.name, unit=unit))
        axes.grid(axis="y")
        dates, ticker = need("matplotlib.dates"), need("matplotlib.ticker")
        locator = dates.AutoDateLocator(minticks=2, maxticks=4 if width < WIDE else 8)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5))

    return svg("ab", alt, draw, height=(2.6, 2.4))


def _figures(test: Experiment, report: Report, words: Words) -> str:
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
