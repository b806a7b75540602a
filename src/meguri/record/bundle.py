"""The files of a release: MLflow's own, written by hand, and the manifest that holds the hash of each."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from meguri.base.errors import ReleaseError
from meguri.base.files import read_json, sha256, write_json
from meguri.data.spec import Field
from meguri.record.estimators import TRUSTED
from meguri.record.onnx import Form, output_names

MODEL_FILES = {"onnx": "model.onnx", "skops": "model.skops"}
MANIFEST = "manifest.json"
_MLFLOWS = "registered_model_meta"  # MLflow writes this file into a folder that it serves from its registry
_AGAIN = "make the release again, or copy it whole from where it was made"
_DISTRIBUTIONS = {
    "onnx": ("numpy", "onnxruntime", "pandas"),
    "skops": ("numpy", "pandas", "scikit-learn", "scipy", "skops"),
}
_BUILT_WITH = ("meguri", "polars", "scikit-learn", "lightgbm", "onnx", "skl2onnx", "onnxmltools")


def write_mlflow(
    folder: Path,
    id: str,
    *,
    fields: Mapping[str, Field],
    forms: Mapping[str, Form] | None,
    classes: Sequence[str] | None,
    at: Any = None,
) -> dict[str, str]:
    """Write MLmodel, requirements.txt and python_env.yaml, so that MLflow loads and serves the folder.

    They are written without MLflow, whose import costs two CPU seconds; MLmodel is JSON, which every YAML reader reads.
    ``fields`` are the model's features in its order, ``forms`` the types of the graph's inputs, None for a skops model.
    Returns the versions of the libraries that the model was made with and needs.
    """
    form = "skops" if forms is None else "onnx"
    mlflow = "mlflow" if _version("mlflow") else "mlflow-skinny"
    lightgbm = ("lightgbm",) if forms is None and "lightgbm" in sys.modules else ()
    wanted = (mlflow, *_DISTRIBUTIONS[form], *lightgbm)
    needed = {name: found for name in wanted if (found := _version(name))}
    (folder / "requirements.txt").write_text("".join(f"{name}=={found}\n" for name, found in sorted(needed.items())))
    python = platform.python_version()
    environment = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    write_json(folder / "python_env.yaml", environment)
    serving: dict[str, Any] = {"python_version": python, "env": {"virtualenv": "python_env.yaml"}}
    file = MODEL_FILES[form]
    flavors: dict[str, dict[str, Any]]
    if form == "onnx":
        threads = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
        own: dict[str, Any] = {"data": file, "onnx_version": _version("onnx"), "onnx_session_options": threads}
        flavors = {
            "onnx": {**own, "providers": ["CPUExecutionProvider"], "code": None},
            "python_function": {**serving, "loader_module": "mlflow.onnx", "data": file},
        }
    else:
        own = {"pickled_model": file, "serialization_format": "skops", "skops_trusted_types": sorted(TRUSTED)}
        ask = "predict" if classes is None else "predict_proba"
        flavors = {
            "sklearn": {**own, "sklearn_version": _version("scikit-learn"), "code": None},
            "python_function": {**serving, "loader_module": "mlflow.sklearn", "model_path": file, "predict_fn": ask},
        }
    signature = _columns(fields) if forms is None else _tensors(forms, classes)
    model = {
        "artifact_path": "model",
        "flavors": flavors,
        "mlflow_version": needed.get(mlflow),
        "model_uuid": hashlib.sha256(id.encode()).hexdigest()[:32],
        "signature": {**signature, "params": None},
        **({"utc_time_created": str(at)} if at else {}),
        "metadata": {"meguri_release": id},
    }
    write_json(folder / "MLmodel", {name: value for name, value in model.items() if value is not None})
    built = {name: found for name in _BUILT_WITH if (found := _version(name))}
    return {"python": python, **built, **needed}


def _tensors(forms: Mapping[str, Form], classes: Sequence[str] | None) -> dict[str, str]:
    """MLflow casts whole numbers, flags and pandas' texts to what the graph takes only when the signature speaks of tensors."""
    types = {"float": "float32", "int64": "int64", "string": "object"}
    score, answer, probabilities = output_names(forms)
    inputs = [_tensor(name, types[form]) for name, form in forms.items()]
    outputs = [_tensor(score, "float32")]
    if classes is not None:
        outputs.append(_tensor(answer, "object"))
        outputs += [_tensor(probabilities, "float32", len(classes))] if len(classes) > 2 else []
    return {"inputs": json.dumps(inputs, ensure_ascii=False), "outputs": json.dumps(outputs)}


def _tensor(name: str, kind: str, *more: int) -> dict[str, Any]:
    return {"type": "tensor", "name": name, "tensor-spec": {"dtype": kind, "shape": [-1, *more]}}


def _columns(fields: Mapping[str, Field]) -> dict[str, str]:
    """A signature of columns; whole numbers that may be null come as pandas makes them, as doubles."""

    def kind(field: Field) -> str:
        if field.type in ("String", "Boolean"):
            return field.type.lower()
        return "double" if field.is_float or field.nullable else "long"

    inputs = [{"type": kind(field), "name": name, "required": not field.nullable} for name, field in fields.items()]
    return {"inputs": json.dumps(inputs, ensure_ascii=False)}


def seal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest: what is given, the hash of each file of the folder, and a digest of the manifest itself."""
    plain = json.loads(json.dumps(manifest, default=str))
    plain["files"] = {name: sha256(folder / name) for name in sorted(_files(folder))}
    write_json(folder / MANIFEST, {**plain, "digest": _digest(plain)})


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a folder whose files are all there, and nothing else, each as it was written.

    Raises ReleaseError that names the first file that is not.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ReleaseError(
            "this folder is no release: it has no manifest.json", where=folder, fix="give a release's folder"
        )
    try:
        manifest: dict[str, Any] = read_json(path)
        digest, files = manifest.pop("digest"), manifest["files"]
        whole = _digest(manifest) == digest and manifest["format_version"] == 1 and manifest["format"] in MODEL_FILES
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError("the manifest of this release cannot be read", where=path, fix=_AGAIN) from error
    if not whole:
        raise ReleaseError("the manifest of this release was changed after it was written", where=path, fix=_AGAIN)
    there = _files(folder)
    for name in sorted(there | set(files)):
        if name not in there:
            raise ReleaseError(f"the release lacks its file {name}", where=folder / name, fix=_AGAIN)
        if name not in files:
            raise ReleaseError(f"the release has a file that is not its own: {name}", where=folder / name, fix=_AGAIN)
        if sha256(folder / name) != files[name]:
            raise ReleaseError(
                f"the file {name} was changed after the release was made", where=folder / name, fix=_AGAIN
            )
    return manifest


def _files(folder: Path) -> set[str]:
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    return found - {MANIFEST, _MLFLOWS}


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
