"""What another split would have earned: a command of A/B tests."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from meguri.base import clock
from meguri.cli import show
from meguri.cli.releases import open_project


def estimate(
    challenger: Annotated[
        str | None, typer.Argument(help="Which challenger, where the latest rollout had several.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="As of meguri ab start (default: that of the latest test).")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help="Only where a feature says so: site=north, site!=north, amount>100; all must hold."
        ),
    ] = None,
    share: Annotated[float, typer.Option("--share", help="The challenger's share of those units.")] = 1.0,
    lower: Annotated[bool, typer.Option("--lower", help="Less of the metric's events is better.")] = False,
    outlet: Annotated[str, typer.Option("--outlet", help="The outlet.")] = "rest",
    lang: Annotated[str, typer.Option("--lang", help="The language of the sentence: en or ja.")] = "en",
    now: Annotated[
        str | None, typer.Option("--now", metavar="TIME", help="The moment to act at (default: the present).")
    ] = None,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Estimate what another split of the champion and a challenger would have earned, from what the latest rollout logged."""
    from meguri.loop import ab_estimate
    from meguri.loop.words import Words
    from meguri.record.experiment_words import policy_sentence

    words, opened = Words(lang), open_project(project)
    found = ab_estimate.estimate(
        opened,
        metric=ab_estimate.metric_asked(opened, metric, outlet, lower=lower),
        challenger=challenger,
        share=share,
        where=[ab_estimate.Condition.parse(text) for text in where or []],
        outlet=outlet,
        now=clock.moment(now) if now else clock.now(),
    )
    said = " and ".join(map(str, found.where)) if lang == "en" else "、".join(map(str, found.where))
    sentence = policy_sentence(
        found.metric, found.share, said, found.values["dr"], found.gain, "ja" if words.language == "ja" else "en"
    )
    if json:
        show.dump({"says": sentence, **asdict(found), "where": [str(condition) for condition in found.where]})
        return
    typer.echo(f"{sentence}\n")
    lines = {**found.values, "A alone (dr)": found.alone, "the difference (dr)": found.gain}
    rows = [(name, v.value, v.low, v.high, round(v.effective), v.largest_weight) for name, v in lines.items()]
    show.table(
        f"{found.metric.name} for each unit", ["", "value", "low", "high", "effective units", "largest weight"], rows
    )
    typer.echo(f"A is {found.champion}, B {found.challenger}; as logged: {found.logged:.4g} for each unit")
    span = f"{found.since:%Y-%m-%d %H:%M} to {found.until:%Y-%m-%d %H:%M}"
    typer.echo(f"{found.units:,} units, {found.touched:,} of them in question, {span}; intervals of 95 % for one look")
