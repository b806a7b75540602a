"""Settings: a typo must never tune nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from meguri.base.errors import SettingsError
from meguri.loop.project import Project
from meguri.loop.settings import fingerprint, sweep


def change(root: Path, old: str, new: str, file: str = "hydra/default.yaml") -> None:
    path = root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_settings_are_typed_and_the_projects_own_section_is_there(project_root: Path) -> None:
    settings = Project.open(project_root).settings()
    assert settings.gate.margin == 0.05
    assert settings.source.path == "data/readings.parquet"  # type: ignore[attr-defined]


def test_an_override_changes_one_key(project_root: Path) -> None:
    settings = Project.open(project_root).settings(["gate.margin=0.2", "model.params.strength=2.0"])
    assert settings.gate.margin == 0.2
    assert settings.model.params == {"strength": 2.0}


def test_a_key_that_has_a_default_may_be_overridden(project_root: Path) -> None:
    assert Project.open(project_root).settings(["loop.history=60d"]).loop.history == "60d"


def test_a_group_that_is_not_there(project_root: Path) -> None:
    change(project_root, "seed: 7", "defaults: [{gate: nowhere}, _self_]\nseed: 7")
    with pytest.raises(SettingsError, match="nowhere"):
        Project.open(project_root).settings()


def test_a_group_is_composed_and_can_be_chosen(project_root: Path) -> None:
    change(project_root, "gate: {metric: log_loss, margin: 0.05, block: 6h}", "defaults: [{gate: strict}, _self_]")
    (project_root / "hydra" / "gate").mkdir()
    (project_root / "hydra" / "gate" / "strict.yaml").write_text("metric: log_loss\nmargin: 0.01\n")
    (project_root / "hydra" / "gate" / "lax.yaml").write_text("metric: auc\nmargin: 0.3\n")
    assert Project.open(project_root).settings().gate.margin == 0.01
    assert Project.open(project_root).settings(["gate=lax"]).gate.metric == "auc"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("margin: 0.05", "margn: 0.05", ["unknown key 'gate.margn'", "did you mean 'margin'?", "hydra/default.yaml:8"]),
        ("trials: 3", "trials: many", ["'optimize.trials' is 'many'", "hydra/default.yaml:6"]),
        ("trials: 3", "trials: 0", ["'optimize.trials' is 0"]),
        ("valid: 5d", "valid: 5 days", ["'split.valid': '5 days' is no duration", "such as 36h or 14d"]),
        (
            "params: {}",
            "params: {strenght: 1}",
            ["has no parameter 'strenght'", "did you mean 'strength'?", "default.yaml:5"],
        ),
        (
            "name: alarm_classifier",
            "name: alarm_clasifier",
            ["no model 'alarm_clasifier'", "did you mean 'alarm_classifier'?"],
        ),
        ("seed: 7", "seed: 7\nlop: 1", ["unknown key 'lop'", "did you mean 'loop'?"]),
        ("gate: {metric: log_loss, ", "gate: {", ["the key 'gate.metric' is missing"]),
        ("seed: 7", "seed: [7", ["the YAML cannot be read", "default.yaml:2"]),
        ("path: data/readings.parquet", 'path: "${nowhere.at.all}"', ["nowhere"]),
    ],
)
def test_a_mistake_in_the_yaml_names_file_key_and_next_step(
    project_root: Path, old: str, new: str, says: list[str]
) -> None:
    change(project_root, old, new)
    with pytest.raises(SettingsError) as caught:
        Project.open(project_root).settings()
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("gate.margn=0.1", ["unknown key 'gate.margn'", "did you mean 'margin'?", "command line"]),
        ("gate.margin=-1", ["'gate.margin' is -1", "command line (gate.margin)"]),
        ("nonsense", ["'nonsense' is no override", "key=value"]),
        ("model.params.strenght=1", ["has no parameter 'strenght'", "command line"]),
    ],
)
def test_a_mistake_on_the_command_line_is_told_as_such(project_root: Path, override: str, says: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Project.open(project_root).settings([override])
    for part in says:
        assert part in str(caught.value)


def test_a_model_that_takes_any_parameter_is_not_judged(project_root: Path) -> None:
    change(
        project_root,
        "*, strength: float = 1.0, fit_intercept: bool = True",
        "**params",
        "src/models/alarm_classifier.py",
    )
    assert Project.open(project_root).settings(["model.params.anything=1"]).model.params == {"anything": 1}


def test_a_model_without_its_class_is_told(project_root: Path) -> None:
    change(project_root, "class AlarmClassifier", "class Alarm", "src/models/alarm_classifier.py")
    with pytest.raises(SettingsError, match="holds no class AlarmClassifier"):
        Project.open(project_root).settings()


def test_a_model_file_that_does_not_parse_is_told(project_root: Path) -> None:
    change(project_root, "def __init__(", "def __init__((", "src/models/alarm_classifier.py")
    with pytest.raises(SettingsError, match="does not parse"):
        Project.open(project_root).settings()


def test_multirun_gives_every_combination() -> None:
    runs = list(sweep(["gate.margin=0.1,0.2", "seed=range(1,3)", "model.name=a"]))
    assert len(runs) == 4
    assert ["gate.margin=0.2", "seed=1", "model.name=a"] in runs


def test_a_sweep_that_cannot_be_read_is_told() -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        list(sweep(["gate.margin=[0.1"]))


def test_kept_settings_are_forgotten_when_a_file_changes(project_root: Path) -> None:
    Project.open(project_root).settings()
    before = fingerprint(project_root)
    assert Project.open(project_root).plain_settings()["seed"] == 7
    change(project_root, "seed: 7", "seed: 8")
    assert fingerprint(project_root) != before
    assert Project.open(project_root).plain_settings()["seed"] == 8


def test_settings_that_read_the_environment_are_not_kept(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(project_root, "seed: 7", "seed: ${oc.env:SEED}")
    monkeypatch.setenv("SEED", "3")
    assert Project.open(project_root).plain_settings()["seed"] == 3
    monkeypatch.setenv("SEED", "4")
    assert Project.open(project_root).plain_settings()["seed"] == 4


def test_a_project_that_may_only_be_read_has_settings(project_root: Path) -> None:
    nowhere = project_root / "outputs.txt"
    nowhere.write_text("a file, in which nothing can be kept")
    project = Project(project_root, outputs=nowhere)
    assert project.plain_settings() == project.settings().model_dump(mode="json")
