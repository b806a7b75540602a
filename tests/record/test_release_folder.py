"""The folder of a release: broken in every way, and loaded with nothing on the path."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import polars as pl
import pytest
from record.releases import (
    INFO,
    Own,
    fit,
    rows,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from meguri.base.errors import ReleaseError
from meguri.record import release as release_module
from meguri.record.release import Release

# ---- the folder


def test_the_manifest_tells_where_it_comes_from(made: Release) -> None:
    manifest = Release.load(made.folder).manifest
    for name in ("run", "commit", "data_version", "trained_until", "metrics"):
        assert manifest[name] == INFO[name]
    assert manifest["id"] == made.id
    assert manifest["versions"]["onnxruntime"]
    names = {path.name for path in made.folder.iterdir()}
    assert set(manifest["files"]) | {"manifest.json"} == names
    assert not [name for name in names if name.endswith((".pkl", ".py", ".pickle"))]


@pytest.fixture
def copy(either: Release, tmp_path: Path) -> Path:
    return Path(shutil.copytree(either.folder, tmp_path / "copy"))


FILES = ["MLmodel", "contract.json", "parity.json", "requirements.txt", "python_env.yaml", "model"]


def named(folder: Path, name: str) -> Path:
    return next(path for path in folder.iterdir() if path.name == name or path.stem == name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_file_that_is_not_as_it_was_is_named(copy: Path, name: str, harm: str) -> None:
    path = named(copy, name)
    raw = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(raw[: len(raw) // 2] if harm == "cut" else bytes([raw[0] ^ 1]) + raw[1:])
    with pytest.raises(ReleaseError, match=path.name.replace(".", r"\.")) as caught:
        Release.load(copy)
    assert caught.value.where == str(path)


def test_a_file_that_is_not_its_own_is_named(copy: Path) -> None:
    (copy / "code").mkdir()
    (copy / "code" / "loader.py").write_text("raise SystemExit")
    with pytest.raises(ReleaseError, match=r"code/loader\.py"):
        Release.load(copy)


def test_what_mlflow_notes_beside_a_registered_model_is_no_harm(copy: Path) -> None:
    (copy / "registered_model_meta").write_text("model_name: flights\nmodel_version: '3'\n")
    assert Release.load(copy).predict(rows()).table.height == rows().height


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest": 1, "files": {}}', "not json"])
def test_a_manifest_that_cannot_be_read_is_named(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(ReleaseError, match="manifest"):
        Release.load(copy)


def test_a_manifest_that_was_changed_is_named(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "trained_until": "2020-01-01"}))
    with pytest.raises(ReleaseError, match="changed after"):
        Release.load(copy)


def test_a_folder_that_is_no_release_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no release"):
        Release.load(tmp_path)
    with pytest.raises(ReleaseError, match="no release"):
        Release.load(tmp_path / "nowhere")


def resealed(folder: Path) -> None:
    """Seal a folder that was tampered with, as one who knows the format would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    release_module.seal(folder, {k: v for k, v in manifest.items() if k not in ("files", "digest")})


def test_a_model_that_answers_otherwise_is_found_by_its_vectors(copy: Path) -> None:
    kept = json.loads((copy / "parity.json").read_text())
    kept["score"][5] += 0.01
    (copy / "parity.json").write_text(json.dumps(kept))
    resealed(copy)
    with pytest.raises(ReleaseError, match=r"differs by up to 0\.01 on 1 of 64 rows") as caught:
        Release.load(copy)
    assert caught.value.where is not None
    assert caught.value.where.endswith("parity.json")


def test_a_contract_of_another_format_is_named(copy: Path) -> None:
    (copy / "contract.json").write_text("{}")
    resealed(copy)
    with pytest.raises(ReleaseError, match="no contract"):
        Release.load(copy)


def test_a_graph_that_the_runtime_cannot_read_is_named(made: Release, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made.folder, tmp_path / "copy"))
    (folder / "model.onnx").write_bytes(b"no graph")
    resealed(folder)
    with pytest.raises(ReleaseError, match=r"model\.onnx"):
        Release.load(folder)


def test_a_skops_file_with_types_of_its_own_is_refused(slow: Release, tmp_path: Path) -> None:
    """The list of what may be loaded is ours: the file, MLmodel and manifest of a release cannot widen it."""
    import skops.io

    folder = Path(shutil.copytree(slow.folder, tmp_path / "copy"))
    skops.io.dump(fit(make_pipeline(Own(), LogisticRegression()), names=["score"]), folder / "model.skops")
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(text.replace('"collections.OrderedDict"', f'"{Own.__module__}.Own"'))
    resealed(folder)
    with pytest.raises(ReleaseError, match="not trusted"):
        Release.load(folder)


def test_a_skops_file_that_cannot_be_read_is_named(slow: Release, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(slow.folder, tmp_path / "copy"))
    (folder / "model.skops").write_bytes(b"no zip")
    resealed(folder)
    with pytest.raises(ReleaseError, match=r"model\.skops"):
        Release.load(folder)


# ---- with no project on the path


def alone(script: str, *arguments: object, folder: Path) -> str:
    code = dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loading_and_predicting_imports_no_training_library(made: Release, tmp_path: Path) -> None:
    rows().write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "empty").mkdir()
    heavy = alone(
        """
        import sys
        from pathlib import Path
        import polars as pl
        from meguri.record.release import Release
        release = Release.load(Path(sys.argv[1]))
        got = release.predict(pl.read_parquet(sys.argv[2]))
        assert got.table.height == 3000, got.quarantined
        names = "sklearn pandas mlflow pandera pyarrow onnx skl2onnx onnxmltools skops lightgbm scipy yaml src".split()
        print([name for name in names if name in sys.modules])
        """,
        made.folder,
        tmp_path / "rows.parquet",
        folder=tmp_path / "empty",
    )
    assert heavy.strip() == "[]"


def test_predicting_tells_the_makers_of_the_runtime_nothing(
    made: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime's telemetry, where it is on, keeps what it will send in the user's cache folder
    for name in ("CI", "GITHUB_ACTIONS", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    rows().write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    alone(
        """
        import sys
        from pathlib import Path
        import polars as pl
        from meguri.record.release import Release
        Release.load(Path(sys.argv[1])).predict(pl.read_parquet(sys.argv[2]))
        """,
        made.folder,
        tmp_path / "rows.parquet",
        folder=tmp_path,
    )
    assert list((tmp_path / "home").rglob("*")) == []


def test_releases_of_two_projects_that_call_their_package_src_load_side_by_side(tmp_path: Path) -> None:
    for name, sign in (("one", 1), ("two", -1)):
        package = tmp_path / name / "src"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "model.py").write_text(
            dedent(f"""
            import numpy as np, pandas as pd
            from sklearn.linear_model import LogisticRegression
            def make():
                x = np.linspace(-1, 1, 100)
                return LogisticRegression().fit(pd.DataFrame({{"x": x}}), {sign} * x > 0)
        """)
        )
        alone(
            """
            import sys
            from datetime import datetime, UTC
            from pathlib import Path
            import pandera.polars as pa, polars as pl
            from meguri.data.contract import Contract
            from meguri.record.release import Release
            from src.model import make
            schema = pa.DataFrameSchema({"id": pa.Column(str), "at": pa.Column(pl.Datetime("us", "UTC")), "x": pa.Column(float)})
            rows = pl.DataFrame({"id": ["a", "b"], "at": [datetime(2024, 1, 1, tzinfo=UTC)] * 2, "x": [-0.9, 0.9]})
            rows.write_parquet("../rows.parquet")
            Release.build(make(), id=sys.argv[1], contract=Contract(schema, key="id", time="at"), sample=rows,
                          folder=Path("release"), info={"run": sys.argv[1]})
            """,
            name,
            folder=tmp_path / name,
        )
    one, two = (Release.load(tmp_path / name / "release") for name in ("one", "two"))
    table = pl.read_parquet(tmp_path / "rows.parquet")
    assert one.predict(table).table["answer"].to_list() == ["false", "true"]
    assert two.predict(table).table["answer"].to_list() == ["true", "false"]
    assert repr(one) == "<Release one: binary, onnx, 1 features>"
