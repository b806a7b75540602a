"""The serving image, built for real, and run as docs/deploy.md says: no root, and nothing to write to but the volumes.

``MEGURI_IMAGE_BASE`` names the image that podman builds on; .ci/run makes one of the machine's own Debian.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from data.servers import postgres
from outlets.serving import LATER, Served, row, under_load

from meguri.record.ledger import open_ledger

ROOT = Path(__file__).parents[2]
BASE = os.environ.get("MEGURI_IMAGE_BASE")
UID = 10001
HARDENED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BASE, reason="MEGURI_IMAGE_BASE names no image to build on")]


def said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip()


@contextmanager
def built(file: str, folder: Path, on: str) -> Iterator[str]:
    """The name of an image that is built now, and gone afterwards."""
    name = f"localhost/meguri-test-{os.getpid()}-{Path(file).name.lower()}"
    said(
        "podman",
        "build",
        "--format=docker",
        "--layers=false",
        f"--build-arg={on}",
        "-f",
        str(ROOT / file),
        "-t",
        name,
        str(folder),
    )
    try:
        yield name
    finally:
        said("podman", "rmi", "--force", name)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with built("deploy/Dockerfile", ROOT, f"BASE={BASE}") as name:
        yield name


class Contained(Served):
    """A project whose service runs in a container."""

    container = f"meguri-test-{os.getpid()}"

    def run(self, *options: str) -> None:
        """Run an image, with these options and arguments, until it is ready."""
        command = ["podman", "run", "--rm", f"--name={self.container}", "--network=host", "--no-healthcheck", *HARDENED]
        with (self.root / "serve.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
        self.until(lambda: self.ask("GET", "/readyz")[0] == 200)

    def stop(self) -> int:
        """End it as an engine does: SIGTERM, and after a while SIGKILL; its exit code."""
        assert self.process is not None
        said("podman", "stop", "--time=40", self.container)
        return self.process.wait(60)

    def within(self, *command: str) -> int:
        """The exit code of a command in the running container."""
        done = subprocess.run(["podman", "exec", self.container, *command], capture_output=True, check=False)
        return done.returncode

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            said("podman", "rm", "--force", "--time=0", self.container)
            self.process.wait()


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Contained]:
    served = Contained(tmp_path / "project")
    try:
        yield served
    finally:
        served.close()


def test_it_holds_what_serving_needs_and_no_more(image: str) -> None:
    container = said("podman", "create", image)
    root = Path(said("podman", "mount", container))
    try:
        found = root.glob("venv/lib/python3*/site-packages/*.dist-info")
        packages = {path.name.partition("-")[0] for path in found}
        assert len(packages) <= 30, packages
        assert not {"pandas", "scikit_learn", "mlflow_skinny", "pyarrow", "pip", "setuptools"} & packages
        assert {"meguri", "granian", "onnxruntime", "psycopg"} <= packages
        files = [path.lstat() for path in root.glob("venv/**/*") if path.is_file() and not path.is_symlink()]
        assert sum(one.st_size for one in files) < 340e6
        writable = [one for one in files if one.st_uid != 0 or one.st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
        assert not writable, "only root may change the code"
        assert [path.name for path in (root / "project").rglob("*")] == ["outputs"], "the image holds no project"
        assert (root / "project" / "outputs").stat().st_uid == UID
    finally:
        said("podman", "rm", container)


def test_it_answers_under_a_read_only_root_and_ends_in_order(image: str, contained: Contained) -> None:
    for path in [contained.outputs, *contained.outputs.glob("*ledger.db*")]:
        os.chown(path, UID, UID)
    volumes = [f"-v={contained.root}:/project:ro", f"-v={contained.outputs}:/project/outputs", "--tmpfs=/tmp"]
    contained.run(*volumes, image, "serve", f"--port={contained.port}")
    contained.token = json.loads((contained.outputs / "tokens.json").read_text())["first"]["token"]
    pid = said("podman", "inspect", "--format={{.State.Pid}}", contained.container)
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status: dict[str, Any] = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert (status["Uid"], status["CapEff"], status["NSpid"][-1]) == ([str(UID)] * 4, ["0" * 16], "1")
    for place in ("/x", "/venv/x", "/project/x", "/project/hydra/default.yaml", "/run/x"):
        assert contained.within("touch", place) != 0, place
    check = json.loads(said("podman", "image", "inspect", "--format={{json .HealthCheck.Test}}", image))
    assert check[0] == "CMD"
    asks = check[-1].replace(":8000", f":{contained.port}")
    assert contained.within(*check[1:-1], asks) == 0
    assert contained.within(*check[1:-1], asks.replace("readyz", "nothing")) == 1
    stop, threads, got, failed = under_load(contained)
    contained.until(lambda: len(got) > 50)
    assert contained.stop() == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert set(got) <= set(contained.ledger.joined(as_of=LATER)["prediction_id"])
    kept = {path.name for path in contained.outputs.iterdir() if "ledger.db" not in path.name}
    assert kept == {"releases", "tokens.json", "settings.json"}


def test_a_project_in_an_image_of_its_own_needs_nothing_to_write_to(
    image: str, contained: Contained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = contained.root / "hydra" / "default.yaml"
    settings.write_text(settings.read_text() + "\nledger: ${oc.env:LEDGER}\n")
    secret = tmp_path / "tokens.json"
    contained.token = "sixteen-characters"
    secret.write_text(json.dumps({"first": {"token": contained.token, "scopes": ["predict"]}}))
    os.chown(secret, 0, UID)
    secret.chmod(0o440)  # as Kubernetes mounts it for a group
    with (
        postgres() as url,
        closing(open_ledger(url)) as ledger,
        built("deploy/Dockerfile.project", contained.root, f"SERVE={image}") as own,
    ):
        contained.ledger.close()
        contained.ledger = ledger
        contained.roll("r-1")
        monkeypatch.setenv("LEDGER", url)
        options = ["-e=LEDGER", f"-v={secret}:/run/secrets/meguri/tokens.json:ro", "--tmpfs=/tmp"]
        told = ["--tokens", "/run/secrets/meguri/tokens.json", "--workers", "2"]
        contained.run(*options, own, "serve", f"--port={contained.port}", *told)
        status, answer = contained.ask("POST", "/predict", row("a"))
        assert (status, answer["release"]) == (200, "r-1"), answer
        assert contained.stop() == 0
        assert [one.prediction_id for one in ledger.find("a")] == [answer["prediction_id"]]
        contained.close()
