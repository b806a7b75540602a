"""The pages about data: what a table holds, and what has changed between two."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from meguri.data.diff import LEAST, Change, Diff
from meguri.data.drift import MISSING, OTHER
from meguri.data.statistics import Column, Profile
from meguri.loop import data_plots
from meguri.loop.page import e, table, tiles, write_page
from meguri.loop.words import Language, Words

NAMED = 4  # columns that a sentence names
COMMON = 3
_MINUS = "\N{MINUS SIGN}"


@cache
def _texts() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(
        Path(__file__).with_name("data_words.json").read_text(encoding="utf-8")
    )
    return found


class DataWords(Words):
    """The texts of these pages, beside those of the report."""

    def __init__(self, language: str) -> None:
        super().__init__(language)
        self._texts = {**self._texts, **_texts()[language]}


def write_diff(path: Path, found: Diff, *, created: datetime, language: Language) -> None:
    """Write a diff as one HTML page with a plot for each column."""
    words = DataWords(language)
    sections = [
        ("story", words("h_summary"), f"<p>{e(summary(found, language))}</p>\n{_diff_tiles(found, words)}"),
        ("table", words("h_table"), _diff_table(found, words)),
        (
            "columns",
            words("h_columns"),
            "\n".join(filter(None, (_figure(i, one, found, words) for i, one in enumerate(found.changes)))),
        ),
        (
            "notes",
            words("h_notes"),
            _notes(words, ["states", "chance", "psi", "ks", "missing"], least=f"{LEAST:g}", alpha=f"{found.alpha:.2%}"),
        ),
    ]
    title = words("title_diff", old=found.old, new=found.new)
    footer = words("data_created", at=f"{created.astimezone(UTC):%Y-%m-%d %H:%M}")
    write_page(path, language=language, kind=words("kind_diff"), title=title, sections=sections, footer=footer)


def write_profile(path: Path, found: Profile, *, title: str, created: datetime, language: Language) -> None:
    """Write a profile as one HTML page with a small histogram for each column."""
    words = DataWords(language)
    columns = list(found.columns.values())
    missing = sum(one.nulls + one.nan for one in columns) / max(found.rows * len(columns), 1)
    told = words("p_rows", rows=words("n_rows", n=found.rows), columns=len(columns), missing=_percent(missing))
    boxes = [
        (f"{found.rows:,}", words("t_rows"), ""),
        (f"{len(columns):,}", words("t_columns"), ""),
        (
            _percent(missing),
            words("t_missing"),
            _names([c.name for c in sorted(columns, key=lambda c: -c.missing) if c.missing], words),
        ),
        (
            f"{sum(one.distinct == 1 for one in columns):,}",
            words("t_constant"),
            _names([c.name for c in columns if c.distinct == 1], words),
        ),
    ]
    heads = [
        ("c_column", False),
        ("c_missing", True),
        ("c_distinct", True),
        ("c_range", False),
        ("c_values", False),
        ("c_shape", False),
    ]
    cells = [_profile_row(one, words) for one in columns]
    sections = [
        ("story", words("h_summary"), f"<p>{e(told)}</p>\n{tiles(boxes)}"),
        ("profile", words("h_profile"), table([(words(name), number) for name, number in heads], cells)),
        ("notes", words("h_notes"), _notes(words, ["missing", "exact"])),
    ]
    footer = words("data_created", at=f"{created.astimezone(UTC):%Y-%m-%d %H:%M}")
    write_page(path, language=language, kind=words("kind_profile"), title=title, sections=sections, footer=footer)


def summary(found: Diff, language: Language) -> str:
    """The diff in two sentences."""
    words = DataWords(language)
    parts = []
    for state in ("gone", "retyped", "drifted", "added"):
        names = [change.name for change in found.changes if change.state == state]
        if names:
            parts.append(words(f"n_{state}", n=len(names), names=_names(names, words)))
    if moved := found.count("moved"):
        parts.append(words("n_moved", n=moved))
    n, some = len(found.changes), len(found.changes) - found.count("steady")
    first = words("d_some", parts=words("d_join").join(parts), some=some, n=n) if parts else words("d_none", n=n)
    before, after = found.rows
    rows = {"rows": words("n_rows", n=after).strip(), "before": words("n_rows", n=before).strip()}
    return words("space").join(
        [first, words("d_rows", old=found.old, new=found.new, change=_growth(before, after), **rows)]
    )


def _growth(before: int, after: int) -> str:
    return f"{(after - before) / before:+.0%}".replace("-", _MINUS)


def _names(names: Sequence[str], words: Words) -> str:
    shown = [*names[:NAMED], *([words("more", n=len(names) - NAMED)] if len(names) > NAMED else [])]
    return words.join(shown) if shown else ""


def _notes(words: Words, terms: Sequence[str], **values: str) -> str:
    lines = [f"<dt>{e(words(f'note_{t}'))}</dt><dd>{e(words(f'note_{t}_text', **values))}</dd>" for t in terms]
    return f"<dl>{''.join(lines)}</dl>"


def _diff_tiles(found: Diff, words: Words) -> str:
    most = max((c for c in found.changes if c.shift), key=lambda c: c.shift.psi if c.shift else 0.0, default=None)
    boxes = [
        (f"{found.rows[1]:,}", words("t_rows"), f"{found.old}: {found.rows[0]:,} ({_growth(*found.rows)})"),
        (
            f"{found.count('drifted'):,}",
            words("t_drifted"),
            _names([c.name for c in found.changes if c.state == "drifted"], words),
        ),
        (
            f"{found.count('added', 'gone', 'retyped'):,}",
            words("t_schema"),
            _names([c.name for c in found.changes if c.state in ("added", "gone", "retyped")], words),
        ),
    ]
    if most is not None and most.shift is not None:
        boxes.append(
            (
                _share(most.shift.psi),
                words("t_most"),
                f"{most.name} ({words('chance', value=_share(most.shift.psi_noise))})",
            )
        )
    return tiles(boxes)


def _diff_table(found: Diff, words: Words) -> str:
    heads = [
        ("c_column", False),
        ("c_state", False),
        ("c_missing", True),
        ("c_mean", True),
        ("c_psi", True),
        ("c_ks", True),
        ("c_js", True),
        ("c_p", True),
    ]
    rows = []
    for one in found.changes:
        state = f'<span class="state {one.state}">{e(words(f"state_{one.state}"))}</span>'
        types = " → ".join(dict.fromkeys(side["type"] for side in (one.old, one.new) if side))
        cells = [f"<b>{e(one.name)}</b><br><small>{e(types)}</small>", state]
        cells.append(_arrow([_percent(side["missing"]) if side else "–" for side in (one.old, one.new)]))
        cells.append(_arrow([_value(side["mean"]) if side and "mean" in side else "" for side in (one.old, one.new)]))
        shift = one.shift
        for value, noise in (
            ((shift.psi, shift.psi_noise), (shift.ks, shift.ks_noise), (shift.js, shift.js_noise))
            if shift
            else [(None, None)] * 3
        ):
            small = f"<br><small>({e(_share(noise))})</small>" if noise is not None else ""
            cells.append(e(_share(value)) + small)
        rows.append([*cells, "–" if one.p is None else e(_p(one.p))])
    return table([(words(name), number) for name, number in heads], rows)


def _arrow(sides: Sequence[str]) -> str:
    if not any(sides):
        return "–"
    return e(sides[0] or "–") if sides[0] == sides[1] else f"{e(sides[0] or '–')}<br>→ {e(sides[1] or '–')}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}" if value < 0.995 else "1"


def _figure(place: int, one: Change, found: Diff, words: Words) -> str:
    shift, bars = one.shift, one.bars
    state = f'<span class="state {one.state}">{e(words(f"state_{one.state}"))}</span>'
    head = f"<h3>{e(one.name)} {state}</h3>"
    if shift is None or bars is None or one.old is None or one.new is None or len(bars.get("labels", "ab")) < 2:
        return ""
    values = {name: _share(getattr(shift, name)) for name in ("psi", "psi_noise", "js", "js_noise", "ks", "ks_noise")}
    note = words(
        "cap_number" if shift.ks is not None else "cap_text",
        before=_percent(one.old["missing"]),
        after=_percent(one.new["missing"]),
        **values,
    )
    names, shares = (found.old, found.new), (bars["old"], bars["new"])
    alt = f"{one.name}: {words(f'state_{one.state}')}, PSI {values['psi']}"
    if "edges" in bars:
        low, high = (
            min(s[end] for s in (one.old, one.new) if end in s)
            if end == "min"
            else max(s[end] for s in (one.old, one.new) if end in s)
            for end in ("min", "max")
        )
        note += words("space") + words("cap_ends") if low < bars["edges"][0] or high > bars["edges"][-1] else ""
        drawn = data_plots.histograms(f"c{place}", alt, names, bars["edges"], shares, label=words("share"))
    else:
        told = {MISSING: words("cell_missing"), OTHER: words("cell_other"), "present": words("cell_present")}
        own = [*shift.values] if shift.values is not None else []
        labels = [label if label in own and label != "present" else told.get(label, label) for label in bars["labels"]]
        if len(labels) > data_plots.MOST_LABELS:
            note += words("space") + words("cap_more", n=data_plots.MOST_LABELS, all=len(labels))
        drawn = data_plots.pairs(f"c{place}", alt, names, labels, shares, label=words("share"))
    return f"<figure>{head}\n{drawn}\n<figcaption>{e(note)}</figcaption></figure>"


def _profile_row(one: Column, words: Words) -> list[str]:
    near = words("p_approximate") if "distinct" in one.approximate else ""
    distinct = "–" if one.distinct is None else f"{near}{one.distinct:,}"
    missing = _percent(one.missing) if one.nulls or one.nan else "0 %"
    said, low, high = [], one.min, one.max
    if one.kind == "text" and one.lengths:
        low, high = int(one.lengths["min"]), int(one.lengths["max"])
        said.append(words("p_length" if low < high else "p_same_length", low=low, high=high))
        said += [words("p_empty", n=one.empty)] if one.empty else []
    elif low is not None:
        said.append(f"{_value(low)} – {_value(high)}")
        said += [words("p_mean", mean=_value(one.mean))] if one.mean is not None and one.kind == "number" else []
        said += (
            [words("p_zeros", share=_percent(one.zeros / one.rows))] if one.zeros and one.zeros > one.rows / 20 else []
        )
    spread = "<br>".join(e(line) if not i else f"<small>{e(line)}</small>" for i, line in enumerate(said)) or "–"
    return [
        f"<b>{e(one.name)}</b><br><small>{e(one.type)}</small>",
        e(missing),
        e(distinct),
        spread,
        _commonest(one, words),
        _histogram(one),
    ]


def _commonest(one: Column, words: Words) -> str:
    if one.kind in ("number", "time") and (one.distinct or 0) > 100:
        return "–"
    parts = [f"{e(_value(value))} <i>{e(_percent(n / one.rows))}</i>" for value, n in one.commonest[:COMMON]]
    if (one.distinct or 0) > COMMON:
        parts.append(f"<i>{e(words('p_more', n=(one.distinct or 0) - COMMON))}</i>")
    return " · ".join(f"<span>{part}</span>" for part in parts) or "–"


def _histogram(one: Column) -> str:
    """A small picture without axes; drawn by hand, as it is only bars."""
    counts = (
        one.histogram["counts"] if one.histogram else [n for _, n in one.commonest] if (one.distinct or 0) > 1 else []
    )
    if not counts or max(counts) == 0:
        return "–"
    width, most = 100 / max(len(counts), 6), max(counts)
    bars = "".join(
        f'<rect x="{i * width:.2f}" y="{36 - 36 * n / most:.2f}" width="{width * 0.88:.2f}" height="{36 * n / most:.2f}"/>'
        for i, n in enumerate(counts)
    )
    drawn = f'<svg class="hist" viewBox="0 0 100 36" preserveAspectRatio="none" role="img" aria-label="{e(one.name)}">{bars}</svg>'
    if one.histogram and one.kind == "number":
        low, high = one.histogram["edges"][0], one.histogram["edges"][-1]
        ends = [_number(low), _number(min(high - 1, one.max) if "Int" in one.type else high)]
        drawn += f'<small class="ends"><span>{e(ends[0])}</span><span>{e(ends[1])}</span></small>'
    return drawn


def _value(value: Any) -> str:
    """A value of a profile, short."""
    if isinstance(value, bool | str):
        text = str(value)
        return (
            text[:16].replace("T", " ") if len(text) >= 19 and text[10:11] == "T" and text[:4].isdigit() else text[:40]
        )
    return _number(value)


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        text = f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
    else:
        text = f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
    return text.replace("-", _MINUS)


def _share(value: float | None) -> str:
    """A PSI, a distance or a divergence."""
    return "–" if value is None else "0" if not value else "< 0.001" if value < 0.0005 else f"{value:.3f}"


def _percent(share: float) -> str:
    return "0 %" if share == 0 else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
