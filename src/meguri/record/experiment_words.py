"""What an experiment says, in one sentence that a manager reads, in English or Japanese."""

from __future__ import annotations

import math
from typing import Literal

from meguri.base.errors import GateError
from meguri.base.money import currency_unit
from meguri.record.experiment import Guard, Metric, Reading, Report
from meguri.record.policy import PolicyValue

Language = Literal["en", "ja"]


def experiment_sentence(report: Report, language: Language = "en") -> str:
    """One sentence on the decision: by how much, between which limits, and whether it is safe to stop.

    A rate is told in percentage points, anything else in the metric's unit, with two significant digits of the
    interval. GateError for another language than "en" or "ja".
    """
    if language not in ("en", "ja"):
        raise GateError(f"no words in {language!r}", fix="ask for 'en' or 'ja'")
    english = language == "en"
    if report.srm.found:
        return _split(report, english)
    text = (_english if english else _japanese)(report.primary)
    broken = [guard for guard in report.guards if guard.state == "worse"]
    if broken:
        return _broken(broken, english)
    names = [guard.reading.metric.name for guard in report.guards if guard.state == "unsure"]
    if names and report.primary.decision == "better":
        text += f" ({', '.join(names)} not settled yet)" if english else f"({'、'.join(names)}は未確定)"
    return text + ("." if english else "。")


def _split(report: Report, english: bool) -> str:
    a, b = report.srm.counts
    plan = ":".join(f"{100 * share:g}" for share in report.srm.shares)
    if english:
        return (
            f"The split is not as planned ({a:,} in A and {b:,} in B, planned {plan}): find the cause before comparing."
        )
    return f"振り分けが計画どおりではありません(A {a:,}、B {b:,}、計画 {plan})。比較する前に原因を調べてください。"


def _broken(guards: list[Guard], english: bool) -> str:
    """Which guardrails B breaks, by at least how much."""
    parts = []
    for guard in guards:
        metric = guard.reading.metric
        digits = _digits(metric, guard.loses_at_most - guard.loses_at_least)
        least = _amount(metric, guard.loses_at_least, digits, english, down=True)
        margin = _amount(metric, metric.margin, digits, english)
        parts.append(
            f"{metric.name} by at least {least} ({margin} allowed)"
            if english
            else f"{metric.name}が少なくとも{least}(許容は{margin})"
        )
    return (
        f"B is worse in {' and '.join(parts)}: stop it." if english else f"Bは{'、'.join(parts)}悪い。止めてください。"
    )


def _english(reading: Reading) -> str:
    metric = reading.metric
    if not reading.enough:
        return f"Too early to say{_more(reading, english=True)}"
    digits = _digits(metric, reading.high - reading.low)
    value, low, high = reading.gain
    if reading.decision in ("better", "worse"):
        sign = 1 if reading.decision == "better" else -1
        ends = sorted((sign * low, sign * high))
        by = _amount(metric, sign * value, digits, True)
        return (
            f"B is {reading.decision} by {by}, between {_number(metric, ends[0], digits)} and "
            f"{_number(metric, ends[1], digits)}: safe to stop"
        )
    span = f"between {_number(metric, reading.low, digits)} and {_number(metric, reading.high, digits)}"
    by = _amount(metric, reading.estimate, digits, True)
    if reading.decision == "equal enough":
        limit = _amount(metric, metric.minimum_effect, digits, True)
        return f"B and A are equal enough: the difference is {by}, {span}, within {limit}: safe to stop"
    return f"Not sure yet: B - A is {by}, {span}{_more(reading, english=True)}"


def _japanese(reading: Reading) -> str:
    metric = reading.metric
    if not reading.enough:
        return f"まだ判断できません{_more(reading, english=False)}"
    digits = _digits(metric, reading.high - reading.low)
    value, low, high = reading.gain
    if reading.decision in ("better", "worse"):
        sign = 1 if reading.decision == "better" else -1
        ends = sorted((sign * low, sign * high))
        by = _amount(metric, sign * value, digits, False)
        word = "良い" if sign > 0 else "悪い"
        return (
            f"BはAより{by}{word}({_number(metric, ends[0], digits)}から{_number(metric, ends[1], digits)}の間)。"
            "止めても安全です"
        )
    span = f"{_number(metric, reading.low, digits)}から{_number(metric, reading.high, digits)}の間"
    by = _amount(metric, reading.estimate, digits, False)
    if reading.decision == "equal enough":
        limit = _amount(metric, metric.minimum_effect, digits, False)
        return f"BとAは同等とみなせます(差は{by}、{span}、許容は{limit})。止めても安全です"
    return f"まだ分かりません(BとAの差は{by}、{span}){_more(reading, english=False)}"


def _more(reading: Reading, *, english: bool) -> str:
    """How many more units per arm, to two digits."""
    if reading.more_units is None:
        return ""
    size = 10 ** max(len(str(reading.more_units)) - 2, 0)
    count = math.ceil(reading.more_units / size) * size
    least = not reading.enough
    if english:
        return (
            f"; at least {count:,} more units per arm are needed"
            if least
            else f"; about {count:,} more units per arm would settle it"
        )
    return f"。各群あと{'少なくとも' if least else '約'}{count:,}件必要です"


def _scale(metric: Metric) -> float:
    return 100.0 if metric.kind == "rate" else 1.0


def _digits(metric: Metric, width: float) -> int:
    """Decimals that show two significant digits of the interval's width."""
    width *= _scale(metric)
    return max(0, 1 - math.floor(math.log10(width))) if 0 < width < math.inf else 1


def _number(metric: Metric, value: float, digits: int, *, down: bool = False) -> str:
    value *= _scale(metric)
    if down:  # "at least" must stay true
        value = math.floor(value * 10**digits) / 10**digits
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def _amount(metric: Metric, value: float, digits: int, english: bool, *, down: bool = False) -> str:
    number = _number(metric, value, digits, down=down)
    if metric.kind == "rate":
        return f"{number} points" if english else f"{number}ポイント"
    unit = currency_unit(metric.unit, "en" if english else "ja")
    if metric.name == "value":
        return f"{number} {unit} per answer" if english else f"推論1件あたり{number}{unit}"
    return f"{number} {unit}" if unit and english else number + unit


def policy_sentence(
    metric: Metric, share: float, where: str, value: PolicyValue, gain: PolicyValue, language: Language
) -> str:
    """What another split would have earned per unit, and how that compares with A, the champion, alone.

    B answers ``share`` of the units, of those that ``where`` names ("" for all), and A the others.
    """
    english = language == "en"
    digits = _digits(metric, value.high - value.low)
    low, high = (_number(metric, limit, digits) for limit in (value.low, value.high))
    told = _number(metric, value.value, digits) + (
        " %" if metric.kind == "rate" else f" {currency_unit(metric.unit, language)}".rstrip()
    )
    sign = 1 if metric.higher_is_better else -1
    better, worse = (sign * gain.low > 0, sign * gain.high < 0) if sign > 0 else (gain.high < 0, gain.low > 0)
    turn = (sign if better else -sign) if better or worse else 1
    digits = _digits(metric, gain.high - gain.low)
    ends = [_number(metric, limit, digits) for limit in sorted((turn * gain.low, turn * gain.high))]
    by = _amount(metric, turn * gain.value, digits, english)
    others = bool(where) or share < 1
    if english:
        units = f"{'all' if share == 1 else f'{share:.0%} of the'} units{f' with {where}' if where else ''}"
        policy = f"If B answered {units}{' and A all others' if others else ''}"
        sure = f"{'better' if better else 'worse'} than A alone by {by}, between {ends[0]} and {ends[1]}"
        open_ = f"the difference to A alone is {by}, between {ends[0]} and {ends[1]}, and may be chance"
        return (
            f"{policy}, {metric.name} would be {told} for each unit, between {low} and {high}: "
            f"{sure if better or worse else open_}."
        )
    units = f"{where}のユニット" if where else "全ユニット"
    units += f"の{share:.0%}に" if share < 1 else "すべてに" if where else "に"
    policy = f"{units}Bが{'、それ以外にAが' if others else ''}答えた場合"
    sure = f"Aだけの場合より{by}{'良い' if better else '悪い'}({ends[0]}から{ends[1]}の間)"
    open_ = f"Aだけの場合との差は{by}({ends[0]}から{ends[1]}の間)で、偶然かもしれません"
    return f"{policy}、{metric.name}は1ユニットあたり{told}({low}から{high}の間)と見込まれます。{sure if better or worse else open_}。"
