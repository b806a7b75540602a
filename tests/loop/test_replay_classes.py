"""A replay of labels that are text, or of several classes: an answer is right when it is the label."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import FILES, START, write_project
from loop.data.stories import SINCE, bare
from typer.testing import CliRunner

from meguri.base.errors import TriggerError
from meguri.cli import app
from meguri.loop.project import Project
from meguri.loop.report import write_report
from meguri.loop.story import PolicyResult
from meguri.loop.tick import tick
from meguri.loop.words import Language, Words

ODD = "noise.random(hours.size) < 0.05"
THREE = f"np.where({ODD}, 0, np.select([level > 0.7, level < -0.7], [0, 1], 2))"
CASES = {
    "three texts": ("multiclass", "str", f'np.array(["cat", "dog", "bird"])[{THREE}]'),
    "three numbers": ("multiclass", "int", f"1 + {THREE}"),
    "two texts": ("binary", "str", 'np.where(1.5 * level + noise.logistic(size=hours.size) > 0, "spam", "ham")'),
}


def classes(root: Path, case: str, metric: str = "log_loss") -> Path:
    """The small project with other labels, and the gate's metric."""
    task, kind, made = CASES[case]
    changes = {
        "src/repository/data_manager.py": ('"alarm": alarm}', f'"alarm": {made}}}'),
        "src/repository/schema.py": ("alarm: bool", f"alarm: {kind}"),
        "hydra/default.yaml": ("metric: log_loss", f"metric: {metric}"),
    }
    named = ('label="alarm"', f'label="alarm", task="{task}"')
    write_project(root, {name: FILES[name].replace(*change).replace(*named) for name, change in changes.items()})
    (root / "src/jobs/optimize.py").unlink()
    return root


def hits(root: Path, policy: str, until: int) -> tuple[float, int]:
    """How often the answer in the policy's ledger was the label, and of how many."""
    state = Project(root, outputs=root / "outputs/replay" / policy)
    known = state.ledger.joined(as_of=START + timedelta(days=until)).filter(pl.col("label").is_not_null())
    pairs = [
        (answer, str(int(y)) if isinstance(y, float) else y) for answer, y in known.select("answer", "label").rows()
    ]
    return float(np.mean([answer == label for answer, label in pairs])), len(pairs)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_replay_knows_which_answers_were_right(project_root: Path, case: str) -> None:
    root = classes(project_root, case, "brier")
    asked = ["replay", "--from", "2024-03-01", "--to", "2024-03-05", "--project", str(root), "--json"]
    summary = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout)
    share, rows = hits(root, "loop", 4)
    assert 0.5 < share < 1
    for policy in ("loop", "never"):  # one release only, so both answered alike
        found = summary[policy]
        assert (found["accuracy"], found["rows"]) == (pytest.approx(share), rows)
        assert 0 < found["brier"] < 0.3
        month = found["months"]["2024-03"]
        assert month == {name: found[name] for name in month}
    assert ("log_loss" in summary["loop"]) == (case == "two texts")
    page = (root / "outputs/replay/report.html").read_text(encoding="utf-8")
    calibration = page[page.index('id="calibration"') : page.index('id="labels"')]
    assert "<svg" in calibration
    assert "Brier score" in page


def test_a_trigger_that_the_ledger_can_never_answer_is_an_error(project_root: Path) -> None:
    project = Project.open(classes(project_root, "three texts"))
    tick(project, now=START, gate=False)
    with pytest.raises(TriggerError, match="'log_loss' cannot be told from the ledger"):
        tick(project, now=START + timedelta(days=1), triggers="Worse('log_loss', 0.02)")
    done = tick(project, now=START + timedelta(days=1), triggers="Worse('accuracy', 0.02)")
    assert done.reason is None


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_report_judges_answers_where_there_are_several_classes(tmp_path: Path, language: Language) -> None:
    table = pl.DataFrame({"time": [SINCE] * 9, "score": [0.8] * 9, "label": [1.0] * 9, "release": ["r"] * 9})
    metrics = {"accuracy": 1.0, "brier": 0.04, "rows": 9}
    loop = PolicyResult(table, (), 3.0, metrics, {"2013-04": metrics})
    write_report(tmp_path / "a.html", replace(bare("multiclass"), policies={"loop": loop}), language=language)
    page, words = html.unescape((tmp_path / "a.html").read_text(encoding="utf-8")), Words(language)
    gate = words.name("metric", "log_loss")
    assert words("not_live", metric=gate) in page
    assert page.count(gate) == 1, "neither a tile nor a figure of what is never known"
    assert words("g_brier_text") in page
    assert words("g_auc_text") not in page
    assert words("one_class") not in page, "each answer was right, of whatever class"
    assert page.count("<svg") == 2 * 4  # accuracy, brier, calibration, cost
