"""TLS of the service: a certificate that a client checks, and files that it refuses before it listens."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from outlets.serving import Served, row

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    made, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(made), "-days", "2", "-subj", "/CN=served"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    key.chmod(0o600)
    return made, key


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("tls") / "alarm")
    yield made
    made.close()


def test_a_client_that_checks_the_certificate_is_answered(served: Served) -> None:
    made, key = certificate(served.root, "good")
    served.tls = ssl.create_default_context(cafile=made)
    served.start("--certificate", made.name, "--key", key.name, "--workers", "2")
    assert f"serving on https://127.0.0.1:{served.port}" in served.log()
    status, answer = served.ask("POST", "/predict", row("private"))
    assert status == 200
    assert len(served.ledger.find(answer["prediction_id"])) == 1
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(4096).startswith(b"HTTP/1.1 200")
    served.tls = ssl.create_default_context()  # knows nobody who has signed it
    with pytest.raises(ssl.SSLCertVerificationError):
        served.ask("GET", "/healthz")
    assert served.stop() == 0


def test_wrong_files_are_refused_before_anything_listens(served: Served) -> None:
    made, key = certificate(served.root, "one")
    _, other = certificate(served.root, "other")
    text, locked, open_key = (served.root / name for name in ("text.pem", "locked.key", "open.key"))
    text.write_text("no certificate")
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-out", locked, "-aes128", "-passout", "pass:quiet"],
        check=True,
        capture_output=True,
    )
    locked.chmod(0o600)
    shutil.copy(key, open_key)
    open_key.chmod(0o644)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # who got as far as the port would complain of it
        port = str(taken.getsockname()[1])
        for given, its_key, told in (
            (served.root / "none.pem", key, "the certificate cannot be read: No such file"),
            (made, served.root / "none.key", "the key cannot be read: No such file"),
            (text, key, "no PEM that TLS can use"),
            (made, text, "others may read the key"),
            (made, open_key, "others may read the key"),
            (made, other, "the key is not the certificate's"),
            (made, locked, "the key asks for a passphrase"),
        ):
            command = [sys.executable, "-m", "meguri", "serve", "--port", port]
            command += ["--certificate", str(given), "--key", str(its_key)]
            done = subprocess.run(
                command, cwd=served.root, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
            )
            assert done.returncode == 1, done
            assert told in done.stderr
