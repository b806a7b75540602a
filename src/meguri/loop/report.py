"""The report: what a replay showed, as one self-contained HTML page that a manager reads."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from meguri.base.files import write_atomic
from meguri.loop import plots
from meguri.loop.lineage_draw import lineage_svg
from meguri.loop.report_money import label, money_table, show
from meguri.loop.story import METRICS, PolicyResult, Story, finite
from meguri.loop.words import Language, Words, rises
from meguri.record.metrics import VALUE, told_live

DRIFTED = 0.2
MOST_TURNS = 40  # rows of the timeline
MOST_BARS = 12


def write_report(path: Path, story: Story, *, language: Language) -> None:
    """Write ``story`` to ``path`` as one HTML file that asks for nothing else; the same story gives the same bytes."""
    words = Words(language)
    sections = [
        ("story", _story(story, words)),
        ("policies", _policies(story, words)),
        ("live", _live(story, words)),
        ("turns", _turns(story, words)),
        ("actual", _actual(story, words))
        if story.task == "regression"
        else ("calibration", _calibration(story, words)),
        ("labels", _labels(story, words)),
        ("quarantine", _quarantine(story, words)),
        ("drift", _drift(story, words)),
        ("lineage", _lineage(story, words)),
        ("cost", _cost(story, words)),
        ("reading", _reading(story, words)),
    ]
    body = "\n".join(
        f'<section id="{key}"><h2>{e(words(f"h_{key}"))}</h2>\n{text}\n</section>' for key, text in sections
    )
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    created = words("created", at=f"{story.created.astimezone(UTC):%Y-%m-%d %H:%M}")
    write_atomic(
        path,
        f"""<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{e(story.title)}</title>
<style>{css}</style>
</head>
<body>
<header><p>{e(words("kind"))}</p><h1>{e(story.title)}</h1></header>
<main>
{body}
</main>
<footer>{e(created)}</footer>
</body>
</html>
""",
    )


def e(text: object) -> str:
    """``text`` as HTML shows it, whatever it holds."""
    return html.escape(plots.plain(str(text)))


def _metrics(story: Story) -> tuple[str, ...]:
    usual = METRICS[story.task] if story.currency is None else (VALUE, *METRICS[story.task])
    return usual if story.metric in usual or not told_live(story.metric, story.task) else (story.metric, *usual)


def _values(story: Story, words: Words, metric: str) -> dict[str, str]:
    return {name: show(story, words, p.metrics.get(metric), metric) for name, p in story.policies.items()}


def _named(words: Words, values: Mapping[str, str]) -> list[str]:
    return [words("s_value", value=value, policy=words.name("policy", name)) for name, value in values.items()]


def _against(words: Words, others: Mapping[str, str]) -> str:
    told = _named(words, others)
    return words("s_against", values=words.join(told)) if told else ""


def _ends(story: Story, words: Words) -> str:
    kinds = [turn.kind for turn in story.loop.turns]
    counts = {kind: kinds.count(kind) for kind in ("released", "refused", "unsure", "failed")}
    return words.join([words(f"s_{kind}", n=count) for kind, count in counts.items() if count])


def _figure(title: str, svg: str, note: str) -> str:
    return f"<figure><h3>{e(title)}</h3>\n{svg}\n<figcaption>{e(note)}</figcaption></figure>"


def _none(text: str) -> str:
    return f'<p class="none">{e(text)}</p>'


def _table(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]) -> str:
    """A table of (heading, is a number) columns and HTML cells; each cell knows its heading, for narrow screens."""
    kinds = [' class="number"' if number else "" for _, number in columns]
    head = "".join(f'<th scope="col"{kind}>{e(name)}</th>' for (name, _), kind in zip(columns, kinds, strict=True))
    lines = "\n".join(
        "<tr>"
        + "".join(
            f'<td{kind} data-label="{e(name)}"><span>{cell}</span></td>'
            for (name, _), kind, cell in zip(columns, kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<div><table><thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>"


def _story(story: Story, words: Words) -> str:
    labels, turns = story.labels, len(story.loop.turns)
    span = {"since": words.date(story.since), "until": words.date(story.until - timedelta(microseconds=1))}
    span["length"] = words.length(story.until - story.since)
    span["ends"] = words("s_ends", parts=_ends(story, words)) if turns else ""
    made = words("n_predictions", n=labels.get("predictions", 0))
    told = [words("s_span", predictions=made, turns=words("n_turns", n=turns), **span)]
    tiles, unknown = [], list[str]()
    for metric in _metrics(story):
        values, better = _values(story, words, metric), words.better(metric)
        own, name = values.pop("loop"), words.name("metric", metric)
        against = _against(words, {n: v for n, v in values.items() if v != "–"})
        if own == "–":
            unknown.append(metric)
        else:
            told.append(words("s_live", metric=name, loop=own, against=against, better=better))
        tiles.append((own, words("tile_live", metric=name), _gap(story, words, metric)))
    if unknown:
        names = [words.name("metric", metric) for metric in unknown]
        told.append(words(_missing(unknown), metric=words.join(names)))
    if not told_live(story.metric, story.task):
        told.append(words("not_live", metric=words.name("metric", story.metric)))
    counts = {name: labels.get(name, 0) for name in ("predictions", "labelled", "awaited", "overdue")}
    told.append(words("s_labels", rows=words("n_rows", n=sum(story.quarantined.values())), **counts))
    costs = {name: words.seconds(p.seconds) for name, p in story.policies.items()}
    tiles.append((f"{turns:,}", words("tile_turns"), _ends(story, words) if turns else ""))
    tiles.append((costs.pop("loop"), words("tile_cost"), words.join(_named(words, costs)) if costs else ""))
    boxes = "\n".join(f"<li><b>{e(value)}</b> {e(name)}<small>{e(note)}</small></li>" for value, name, note in tiles)
    return f'<p>{e(words("space").join(told))}</p>\n<ul class="tiles">\n{boxes}\n</ul>'


def _missing(metrics: Sequence[str]) -> str:
    return "none_live_class" if "auc" in metrics else "none_live"


def _gap(story: Story, words: Words, metric: str) -> str:
    """How much better the loop was than the first of the simpler ways, in words."""
    other = next((name for name in ("never", *story.policies) if name != "loop" and name in story.policies), None)
    mine, theirs = story.loop.metrics.get(metric), story.policies[other].metrics.get(metric) if other else None
    if other is None or mine is None or theirs is None or not math.isfinite(mine - theirs):
        return ""
    gap = (mine - theirs) * (1 if rises(metric) else -1)
    size, policy = show(story, words, abs(gap), metric), words.name("policy", other)
    if not re.search("[1-9]", size):
        return words("same_as", policy=policy)
    return words("better_by" if gap > 0 else "worse_by", gap=size, policy=policy)


def _policies(story: Story, words: Words) -> str:
    shown = _metrics(story)
    names = [(words.name("metric", metric), True) for metric in shown]
    ends = [(words(f"col_{name}"), True) for name in ("labelled", "turns", "released", "seconds")]
    rows = []
    for name, policy in story.policies.items():
        values = [show(story, words, policy.metrics.get(metric), metric) for metric in shown]
        released = sum(turn.release is not None for turn in policy.turns)
        values += [f"{int(policy.metrics.get('rows') or 0):,}", f"{len(policy.turns):,}", f"{released:,}"]
        rows.append([e(words.name("policy", name)), *map(e, values), e(words.seconds(policy.seconds))])
    return _table([(words("col_policy"), False), *names, *ends], rows)


def _live(story: Story, words: Words) -> str:
    parts, middle = [], timedelta(days=15)
    releases = [turn.time for turn in story.loop.turns if turn.release is not None and turn.time >= story.since]
    for metric in _metrics(story):
        name = words.name("metric", metric)
        series: dict[str, list[tuple[datetime, float]]] = {}
        for policy, result in story.policies.items():
            found = ((key, finite(values).get(metric)) for key, values in sorted(result.months.items()))
            points = [
                (_period(key) + (middle if len(key) == 7 else timedelta()), v) for key, v in found if v is not None
            ]
            if points:
                series[policy] = [(min(max(at, story.since), story.until), value) for at, value in points]
        if not series:
            parts.append(_none(words(_missing([metric]), metric=name)))
            continue
        told = [f"{words.name('policy', n)} {v}" for n, v in _values(story, words, metric).items()]
        title, better = words("p_live", metric=name, values=words("s_join").join(told)), words.better(metric)
        months = any(len(key) == 7 for policy in story.policies.values() for key in policy.months)
        note = words(
            "c_live",
            period=words("period_month" if months else "period_other"),
            better=better,
            Better=better.capitalize(),
        )
        svg = plots.live(
            f"live-{len(parts)}",
            title,
            words,
            label=label(story, words, metric),
            series=series,
            releases=releases,
            span=(story.since, story.until),
        )
        parts.append(_figure(title, svg, note))
    return "\n".join([*parts, _months(story, words)])


def _months(story: Story, words: Words) -> str:
    """The figures behind the lines, folded away."""
    keys = sorted({key for policy in story.policies.values() for key in policy.months})
    shown = [(policy, metric) for metric in _metrics(story) for policy in story.policies]
    if not keys:
        return ""
    columns = [(f"{words.name('metric', metric)}, {words.name('policy', policy)}", True) for policy, metric in shown]
    rows = [
        [
            e(key),
            *(
                e(show(story, words, story.policies[policy].months.get(key, {}).get(metric), metric))
                for policy, metric in shown
            ),
        ]
        for key in keys
    ]
    table = _table([(words("col_period"), False), *columns], rows)
    return f"<details><summary>{e(words('figures'))}</summary>{table}</details>"


def _turns(story: Story, words: Words) -> str:
    turns = story.loop.turns
    if not turns:
        return _none(words("none_turns"))
    rows, until = [], story.until
    for number, turn in reversed(list(enumerate(turns, 1))):
        text = f"{number} · {words('kind_' + turn.kind)} · {words.told('reason', turn.reason)}"
        rows.append(plots.Row(turn.time, text, turn.kind, until if turn.release is not None else None))
        until = turn.time if turn.release is not None else until
    rows = rows[:MOST_TURNS][::-1]
    released = words("s_released", n=sum(turn.release is not None for turn in turns))
    title = words("p_turns", turns=words("n_turns", n=len(turns)), released=released)
    note = words("c_turns", step=words.every(story.step)) + (
        words("space") + words("more_turns", n=MOST_TURNS) if len(turns) > MOST_TURNS else ""
    )
    svg = plots.turns("turns", title, words, rows, span=(story.since, story.until))
    return _figure(title, svg, note) + "\n" + _turn_table(story, words)


def _turn_table(story: Story, words: Words) -> str:
    heading = words("col_gain", metric=words.name("metric", story.metric))
    columns = [(words("col_number"), True), *((words(f"col_{name}"), False) for name in ("time", "reason", "verdict"))]
    columns += [(heading, True), (words("col_release"), False), (words("col_rows"), True), (words("col_seconds"), True)]
    rows = []
    for number, turn in enumerate(story.loop.turns, 1):
        verdict = turn.verdict if turn.verdict in ("pass", "fail", "unsure") else "none"
        said = f"<b>{e(words('verdict_' + verdict))}</b>" + (
            f"<br>{e(words.told('verdict', turn.verdict_reason))}" if turn.verdict_reason else ""
        )
        gain = e(show(story, words, turn.gain, story.metric, "+"))
        if turn.low is not None and turn.high is not None:
            low, high = (show(story, words, end, story.metric, "+") for end in (turn.low, turn.high))
            gain += f"<br><small>{e(words('gain_range', low=low, high=high))}</small>"
        release, compared = turn.release or "–", "–" if turn.rows is None else f"{turn.rows:,}"
        reason = e(words.told("reason", turn.reason))
        cells = [str(number), f"{turn.time.astimezone(UTC):%Y-%m-%d %H:%M}", reason, said, gain]
        rows.append([*cells, e(release), compared, e(words.seconds(turn.seconds))])
    return _table(columns, rows)


def _labelled(policy: PolicyResult) -> pl.DataFrame:
    known = policy.predictions.select(pl.col("score", "label").cast(pl.Float64)).drop_nulls()
    return known.filter(pl.all_horizontal(pl.all().is_finite()))


def _calibration(story: Story, words: Words) -> str:
    bins: dict[str, list[tuple[float, float, int]]] = {}
    for name in ("loop", "never"):
        if name in story.policies and len(known := _labelled(story.policies[name])):
            tenth = (pl.col("score") * 10).floor().clip(0, 9).alias("bin")
            means = known.group_by(tenth).agg(pl.col("score").mean(), pl.col("label").mean(), rows=pl.len()).sort("bin")
            bins[name] = list(means.drop("bin").iter_rows())
    if "loop" not in bins:
        return _none(words("none_calibration"))
    rows = sum(count for *_, count in bins["loop"])
    error = sum(count * abs(share - score) for score, share, count in bins["loop"]) / rows
    score, share, _ = next(bar for bar in reversed(bins["loop"]) if bar[2] >= rows / 100)
    title = words("p_calibration", score=f"{score:.0%}", share=f"{share:.0%}")
    note = words("c_calibration", error=f"{100 * error:.1f}")
    both = story.task != "binary" or 0 < sum(share * count for _, share, count in bins["loop"]) < rows
    one = "" if both else _none(words("one_class"))
    return one + _figure(title, plots.reliability("calibration", title, words, bins), note)


def _actual(story: Story, words: Words) -> str:
    known = _labelled(story.loop)
    if not len(known):
        return _none(words("none_calibration"))
    group = ((pl.col("score").rank("ordinal") - 1) * min(20, len(known)) // len(known)).alias("group")
    low, high = (pl.col("label").quantile(share, "linear").alias(f"q{share}") for share in (0.1, 0.9))
    means = known.group_by(group).agg(pl.col("score").mean(), pl.col("label").mean(), low, high).sort("group")
    mean = known.mean().row(0)
    title = words("p_actual", score=show(story, words, mean[0], "mae"), label=show(story, words, mean[1], "mae"))
    return _figure(
        title, plots.actual("actual", title, words, list(means.drop("group").iter_rows())), words("c_actual")
    )


def _labels(story: Story, words: Words) -> str:
    counts = {name: story.labels.get(name, 0) for name in ("awaited", "overdue")}
    title = words("p_labels", **counts)
    if not story.awaited:
        return f"<p>{e(title)}</p>" + _none(words("none_labels"))
    points = sorted(story.awaited)
    points = points[:: max(1, len(points) // 400)]
    svg = plots.awaited("labels", title, words, points, span=(story.since, story.until))
    return _figure(title, svg, words("c_labels"))


def _quarantine(story: Story, words: Words) -> str:
    ranked = sorted(((n, count) for n, count in story.quarantined.items() if count), key=lambda row: (-row[1], row[0]))
    if not ranked:
        return _none(words("none_quarantine"))
    ranked = [(words.told("quarantine", name), count) for name, count in ranked]
    title = words("p_quarantine", rows=words("n_rows", n=sum(count for _, count in ranked)), reason=ranked[0][0])
    rest = sum(count for _, count in ranked[MOST_BARS:])
    shown = ranked[:MOST_BARS] + ([(words("others"), rest)] if rest else [])
    bars = [(name, float(count), f"{count:,}", plots.colour("orange")) for name, count in shown]
    return _figure(title, plots.bars("quarantine", title, bars, label=words("x_rows")), words("c_quarantine"))


def _drift(story: Story, words: Words) -> str:
    psi = {name: {month: v for month, v in months.items() if math.isfinite(v)} for name, months in story.drift.items()}
    ranked = sorted((name for name in psi if psi[name]), key=lambda name: (-max(psi[name].values()), name))[:12]
    if not ranked:
        return _none(words("none_drift"))
    months = sorted({month for name in ranked for month in psi[name]})[-12:]
    worst = max(psi[ranked[0]], key=lambda month: psi[ranked[0]][month])
    value = psi[ranked[0]][worst]
    told = {"feature": ranked[0], "value": f"{value:.2f}", "month": words.month(_period(worst), year=True)}
    title = words("p_drift" if value > DRIFTED else "p_no_drift", **told)
    cells = [[psi[name].get(month) for month in months] for name in ranked]
    svg = plots.drift("drift", title, ranked, [words.month(_period(month)) for month in months], cells)
    return _figure(title, svg, words("c_drift", n=len(ranked)))


def _lineage(story: Story, words: Words) -> str:
    if story.lineage is None:
        return _none(words("none_lineage"))
    title = words("t_lineage", name=story.lineage.name)
    return _figure(title, lineage_svg(story.lineage, title=title, words=words), words("c_lineage"))


def _cost(story: Story, words: Words) -> str:
    told = {name: words.seconds(policy.seconds) for name, policy in story.policies.items()}
    if not any(policy.seconds for policy in story.policies.values()):
        return _none(words("none_cost")) + money_table(story, words)
    names = {name: words.name("policy", name) for name in story.policies}
    title = words("p_cost", values=words("s_join").join(f"{names[name]} {text}" for name, text in told.items()))
    bars = [
        (
            f"{names[name]} · {words('n_turns', n=len(policy.turns)).strip()}",
            policy.seconds,
            told[name],
            plots.style(name, i)[0],
        )
        for i, (name, policy) in enumerate(story.policies.items())
    ]
    figure = _figure(title, plots.bars("cost", title, bars, label=words("x_seconds")), words("c_cost"))
    return figure + money_table(story, words)


def _reading(story: Story, words: Words) -> str:
    money = [] if story.currency is None else [VALUE]
    figures = {"binary": ["auc", "log_loss"], "multiclass": ["accuracy", "brier"], "regression": ["error"]}
    terms = ["loop", "turn", "verdict", *figures[story.task], *money]
    return "<dl>" + "".join(f"<dt>{e(words(f'g_{t}'))}</dt><dd>{e(words(f'g_{t}_text'))}</dd>" for t in terms) + "</dl>"


def _period(key: str) -> datetime:
    return datetime.fromisoformat(key if len(key) > 7 else f"{key}-01").replace(tzinfo=UTC)
