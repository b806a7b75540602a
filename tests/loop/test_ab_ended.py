"""When an A/B test is over, what came after does not change it; and a split that is not as planned is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import START
from loop.ab_past import DAY, PLAN, answer, begun, happen
from loop.test_ab_before import project, release

from meguri import Value
from meguri.loop import ab, tick
from meguri.loop.project import Project
from meguri.record import rollout
from meguri.record.ledger import Label

__all__ = ["project", "release"]
UNITS = [f"u{n}" for n in range(4000)]
A, B = UNITS[::2], UNITS[1::2]


def served(project: Project, a: float, b: float) -> None:
    dice = np.random.default_rng(3)
    answer(project, A, START + DAY, "a")
    answer(project, B, START + DAY, "b")
    did = [*(u for u in A if dice.random() < a), *(u for u in B if dice.random() < b)]
    happen(project, "buy", dict.fromkeys(did, 1.0), START + 2 * DAY)


def test_what_comes_after_its_end_does_not_count(project: Project) -> None:
    test = begun(project, promote=True)
    served(project, 0.1, 0.2)
    look = ab.look(project, test, now=START + 3 * DAY, act=True)
    assert (look.done, look.ended) == ("b", None)
    answer(project, [f"new{n}" for n in range(4000)], START + 4 * DAY, "b", share=1.0)
    happen(project, "buy", dict.fromkeys(A, 1.0), START + 4 * DAY)
    later = ab.look(project, project.ledger.experiments()[-1], now=START + 9 * DAY, act=True)
    assert later.report == look.report
    assert later.ended == START + 3 * DAY
    assert ab.look(project, test, now=START + 3 * DAY / 2).ended is None, "then it still ran"


def test_another_rollout_ends_it_and_is_not_undone(project: Project) -> None:
    test = begun(project)
    served(project, 0.1, 0.1)
    rollout.promote(
        project.ledger, "rest", "a", at=START + 2.5 * DAY, why="look", by="ann", challengers={"b": 0.5}, shadow=["b"]
    )
    assert ab.running(project, "rest") == test, "a shadow answers nobody"
    rollout.promote(project.ledger, "rest", "b", at=START + 3 * DAY, why="by hand", by="ann")
    assert ab.running(project, "rest") is None
    answer(project, [f"new{n}" for n in range(4000)], START + 4 * DAY, "b", share=1.0)
    look = ab.look(project, test, now=START + 5 * DAY)
    assert (look.report.srm.found, look.ended) == (False, START + 3 * DAY)
    assert tick._decide(project, START + 5 * DAY) == (None, [])
    kept = project.ledger.experiments()[-1]
    assert (kept.status, kept.detail["why"]) == ("stopped", "another rollout took its place")
    now = rollout.current(project.ledger, "rest")
    assert now is not None
    assert (now.champion, now.by) == ("b", "ann")


def test_answers_that_are_lost_in_one_arm_are_found_and_nothing_is_decided(project: Project) -> None:
    test = begun(project, promote=True)
    answer(project, A, START + DAY, "a")
    answer(project, B[:1700], START + DAY, "b")
    happen(project, "buy", dict.fromkeys(B[:900], 1.0), START + 2 * DAY)
    look = ab.look(project, test, now=START + 3 * DAY, act=True)
    assert look.report.srm.found
    assert (look.report.decision, look.done) == ("unsure", None)
    answer(project, B[1700:], START + 3 * DAY, "b")
    again = ab.look(project, project.ledger.experiments()[-1], now=START + 4 * DAY, act=True)
    assert again.report.srm.found, "once found it stays found"


def test_what_is_better_goes_live_once_its_guardrails_are_held(project: Project) -> None:
    leave = ab.metric_of("event:leave", "binary", margin=0.03, higher_is_better=False)
    test = begun(project, promote=True, guards=[leave])
    served(project, 0.1, 0.2)
    happen(project, "leave", dict.fromkeys([*A[:80], *B[:120]], 1.0), START + 2 * DAY)
    look = ab.look(project, test, now=START + 3 * DAY, act=True)
    assert (look.report.decision, look.report.guards[0].state, look.done) == ("better", "unsure", None)
    answer(project, [f"{u}x" for u in A], START + 3 * DAY, "a")
    answer(project, [f"{u}x" for u in B], START + 3 * DAY, "b")
    happen(project, "buy", dict.fromkeys([f"{u}x" for u in B[:200]], 1.0), START + 4 * DAY)
    happen(project, "leave", dict.fromkeys([f"{u}x" for u in A[:80]], 1.0), START + 4 * DAY)
    look = ab.look(project, test, now=START + 5 * DAY, act=True)
    assert (look.report.decision, look.report.guards[0].state, look.done) == ("better", "held", "b")


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_shows_how_each_guardrail_went(project: Project, tmp_path: Path, language: str) -> None:
    from meguri.loop import ab_page
    from meguri.loop.words import Words

    guards = [
        ab.metric_of(f"event:{kind}", "binary", margin=0.05, higher_is_better=False) for kind in ("leave", "rare")
    ]
    test = begun(project, guards=guards, before=14 * DAY)
    served(project, 0.1, 0.2)
    happen(project, "leave", dict.fromkeys(UNITS[:400], 1.0), START + 2 * DAY)
    words = Words(language)
    ab_page.write(tmp_path / "p.html", project, test, now=START + 4 * DAY, words=words)
    page = (tmp_path / "p.html").read_text()
    assert page.count("<svg") == 4  # two plots in two widths; of what nobody did there is none
    assert f"event:leave: {words('state_held')}" in page
    assert f"event:rare: {words('state_unsure')}" in page
    assert words("ab_few") in page
    assert words("ab_not_narrowed") in page
    assert words("ab_sure") in page
    ab.stop(project, test, keep="champion", at=START + 4 * DAY, why="", by="ann")
    ab_page.write(tmp_path / "q.html", project, test, now=START + 40 * DAY, words=words)
    assert "2024-03-05T00:00" in (tmp_path / "q.html").read_text()


def test_a_test_that_is_over_and_cannot_be_read_is_told_once(project: Project) -> None:
    value = Value("JPY", {a: {y: 9 if a == y else -9 for y in (True, False)} for a in (True, False)})
    project.contract.value = value
    metric = ab.metric_of("value", "binary", value)
    ab.start(
        project, "b", metric=metric, at=START, share=0.5, plan=PLAN, promote=False, outlet="rest", why="try", by="ann"
    )
    served(project, 0.1, 0.1)
    project.ledger.write_labels([Label(1.0, START + 2 * DAY, "mika", key=f"{unit}@0302") for unit in A + B])
    project.contract.value = None
    now = START + 3 * DAY
    for _ in range(2):
        assert [error.what for _, error in tick._decide(project, now)[1]] == ["the ledger cannot tell 'value'"]
    rollout.promote(project.ledger, "rest", "b", at=now, why="by hand", by="ann")
    assert ab.running(project, "rest") is None, "so that `meguri ab stop` has nothing to end"
    assert len(tick._decide(project, now + DAY)[1]) == 1
    assert tick._decide(project, now + 2 * DAY) == (None, [])
    kept = project.ledger.experiments()[-1]
    assert (kept.status, kept.detail["why"]) == ("stopped", "another rollout took its place")
