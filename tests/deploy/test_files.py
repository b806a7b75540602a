"""The files of deploy/: they fit each other, the service and the lock. What needs an engine is in test_image.py."""

from __future__ import annotations

import configparser
import fnmatch
import os
import re
import shlex
import signal
import socket
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from packaging.requirements import Requirement

from meguri.cli import app
from meguri.outlets.rest.app import ADDRESSES
from meguri.outlets.rest.server import DRAIN

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
BY_KIND = {one["kind"]: one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))}
POD = BY_KIND["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
LABELS = BY_KIND["Deployment"]["spec"]["template"]["metadata"]["labels"]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def pins(lock: Path) -> dict[str, set[str]]:
    """The versions of each package in a lock."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MORE = PROJECT["optional-dependencies"]
OWN = [*PROJECT["dependencies"], *(f"{text}; extra == '{extra}'" for extra in MORE for text in MORE[extra])]


def needed(requirement: Requirement, found: dict[str, set[str]]) -> dict[str, set[str]]:
    """Every package that a requirement brings here, with the extras that were followed."""
    name = re.sub(r"[-_.]+", "-", requirement.name).lower()
    if name in found and found[name] >= requirement.extras:
        return found
    found[name] = found.get(name, set()) | requirement.extras
    for text in OWN if name == "meguri" else requires(requirement.name) or []:
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            needed(one, found)
    return found


# ---- the locks


def test_the_lock_of_the_image_has_all_that_serving_needs_and_the_tested_versions() -> None:
    group = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["image"]
    wanted = needed(Requirement("meguri[serve]"), {})
    for text in group:
        needed(Requirement(text), wanted)
    locked, tested = pins(DEPLOY / "serve.lock"), pins(ROOT / "requirements.lock")
    assert wanted.keys() - {"meguri"} <= locked.keys()
    assert len(wanted) <= 30
    assert {name: versions for name, versions in locked.items() if not versions <= tested[name]} == {}
    assert not {"polars", "pandas", "pyarrow", "scikit-learn", "mlflow-skinny", "ibis-framework"} & locked.keys()


@pytest.mark.parametrize("name", ["serve.lock", "build.lock", "frames.lock"])
def test_a_lock_holds_hashes_only(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    assert text.count("--hash=sha256:") > len(pins(DEPLOY / name)) > 1
    assert "://" not in text


# ---- the image


def test_the_image_takes_another_base_and_is_told_of_signals() -> None:
    assert DOCKERFILE.index("ARG BASE=python:3.") < DOCKERFILE.index("FROM ${BASE}")
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE}"}
    for word in ("ENTRYPOINT", "CMD"):
        assert re.findall(rf"^ *{word} (.)", DOCKERFILE, re.MULTILINE) == ["["] * (1 + (word == "CMD")), "no shell"
    uid = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert uid == [(str(POD["securityContext"]["runAsUser"]), str(POD["securityContext"]["runAsGroup"]))]
    asked = re.findall(r"127\.0\.0\.1:8000(/\w+)", DOCKERFILE)
    assert asked == ["/readyz"]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    let = [line[1:] for line in lines if line.startswith("!")]
    for words in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, one) for one in let), source


# ---- how the service is started


def unit() -> dict[str, str]:
    parsed = configparser.ConfigParser(strict=True, interpolation=None, delimiters=["="])
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(DEPLOY / "meguri-serve@.service", encoding="utf-8")
    return dict(parsed["Service"])


def commands() -> dict[str, list[str]]:
    (cmd,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    return {
        "Dockerfile": yaml.safe_load(cmd),
        "compose": COMPOSE["services"]["serve"]["command"],
        "kubernetes": CONTAINER["args"],
        "systemd": shlex.split(unit()["ExecStart"])[1:],
    }


@pytest.mark.parametrize("where", commands())
def test_the_command_is_one_of_ours(where: str) -> None:
    command, *options = commands()[where]
    group: Any = typer.main.get_command(app)
    given = group.get_command(typer.Context(group), command).make_context(command, list(options)).params
    assert given["host"] == ("127.0.0.1" if where == "systemd" else "0.0.0.0")
    assert not given["open_to_all"]
    assert given["port"] == 8000


def test_each_engine_waits_until_the_service_has_drained() -> None:
    assert seconds(COMPOSE["services"]["serve"]["stop_grace_period"]) > DRAIN
    assert int(unit()["TimeoutStopSec"]) > DRAIN
    wait = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > DRAIN + wait


# ---- Kubernetes


def test_every_manifest_is_taken_up_and_speaks_of_the_same_pods() -> None:
    own = {path.name for path in MANIFESTS} - {"kustomization.yaml"}
    assert set(BY_KIND["Kustomization"]["resources"]) == own
    assert BY_KIND["Kustomization"]["images"][0]["name"] == CONTAINER["image"]
    assert BY_KIND["Deployment"]["spec"]["selector"]["matchLabels"] == LABELS
    assert BY_KIND["Service"]["spec"]["selector"] == LABELS
    assert BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == LABELS
    assert BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == LABELS
    target = BY_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": BY_KIND["Deployment"]["metadata"]["name"]}
    assert "replicas" not in BY_KIND["Deployment"]["spec"], "they are the autoscaler's"
    (port,) = CONTAINER["ports"]
    assert BY_KIND["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert BY_KIND["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] == port["name"]


def test_probes_ask_what_needs_no_token() -> None:
    asked = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    for probe in asked.values():
        assert ADDRESSES[probe["path"]] == ("GET", None)
        assert probe["port"] == CONTAINER["ports"][0]["name"]
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startup": "/healthz",
        "readiness": "/readyz",
        "liveness": "/healthz",  # a pod whose release is not there yet must not be restarted for that
    }


def test_a_pod_may_do_nothing_but_serve() -> None:
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not POD["automountServiceAccountToken"]
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {one["name"]: one["mountPath"] for one in CONTAINER["volumeMounts"]}
    assert mounts.keys() == {one["name"] for one in POD["volumes"]}
    tokens = CONTAINER["args"][CONTAINER["args"].index("--tokens") + 1]
    (secret,) = (one["secret"] for one in POD["volumes"] if "secret" in one)
    assert tokens == f"{mounts['tokens']}/{secret['items'][0]['path']}"
    assert not secret["defaultMode"] & 0o007
    assert CONTAINER["env"][0]["valueFrom"]["secretKeyRef"]["name"] == secret["secretName"]
    assert BY_KIND["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert (
        BY_KIND["PodDisruptionBudget"]["spec"]["maxUnavailable"]
        < (BY_KIND["HorizontalPodAutoscaler"]["spec"]["minReplicas"])
    )


def test_kserve_is_given_mlflows_format() -> None:
    model = yaml.safe_load((DEPLOY / "kserve.yaml").read_text(encoding="utf-8"))["spec"]["predictor"]["model"]
    assert (model["modelFormat"], model["protocolVersion"]) == ({"name": "mlflow"}, "v2")


# ---- Compose


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_closed_to_the_world(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "healthcheck" in service or service["build"]["dockerfile"] == "deploy/Dockerfile"
    for other, rule in service.get("depends_on", {}).items():
        assert rule == {"condition": "service_healthy"}
        assert "healthcheck" in COMPOSE["services"][other]


def test_mlflow_is_the_version_of_the_lock() -> None:
    (locked,) = pins(ROOT / "requirements.lock")["mlflow-skinny"]
    assert COMPOSE["services"]["mlflow"]["image"].rpartition(":")[2] == f"v{locked}"


@pytest.mark.slow
@pytest.mark.skipif("MEGURI_MLFLOW" not in os.environ, reason="MEGURI_MLFLOW names no MLflow server")
def test_mlflows_command_starts_a_server_that_knows_its_name(tmp_path: Path) -> None:
    service = COMPOSE["services"]["mlflow"]
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    told = " ".join(service["command"][1:]).replace("/mlflow/", f"{tmp_path}/")
    told = told.replace("--host=0.0.0.0", "--host=127.0.0.1").replace("--port=5000", f"--port={port}")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | service["environment"]
    command = [os.environ["MEGURI_MLFLOW"], *told.split()]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def asked(host: str, path: str) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"host": host})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    try:
        end = time.monotonic() + 120
        while asked("localhost:5000", "/health") != 200:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.2)
        search = "/api/2.0/mlflow/experiments/search?max_results=1"
        assert [asked(host, search) for host in ("mlflow:5000", "127.0.0.1:5000", "elsewhere")] == [200, 200, 403]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
