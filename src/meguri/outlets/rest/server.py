"""The server under the service: granian, whose workers are processes that share one port."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meguri.base.errors import OutletError, SettingsError
from meguri.base.extras import need
from meguri.outlets.rest.options import ENVIRONMENT, Options
from meguri.outlets.rest.tokens import private

QUEUE = 1024  # connections that the system holds for us
DRAIN = 30  # seconds that a worker which was told to stop may go on answering what it has taken in


def check(host: str, port: int, certificate: Path | None, key: Path | None) -> None:
    """See that this can be listened on, and by these files.

    Raises SettingsError for a certificate and key that TLS cannot use, OutletError when the address is taken.
    """
    if certificate is not None and key is not None:
        _prove(certificate, key)
    elif certificate is not None or key is not None:
        raise SettingsError("TLS needs both --certificate and --key", where="meguri serve", fix="give both, or neither")
    _free(host, port)


def serve(
    options: Options,
    *,
    host: str,
    port: int,
    workers: int = 1,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serve until a signal ends it; what was taken in is answered first."""
    granian = need("granian")
    multiprocessing.set_start_method("spawn", force=True)  # threads do not survive a fork
    more: dict[str, Any] = {} if certificate is None else {"ssl_cert": certificate, "ssl_key": key}
    with tempfile.TemporaryDirectory(prefix="meguri-metrics-") as folder:
        os.environ |= _environment(options, folder, workers)
        granian.Granian(
            "meguri.outlets.rest.app:make",
            address=host,
            port=port,
            interface="asgi",
            workers=workers,
            blocking_threads=1,
            loop="asyncio",
            backlog=QUEUE,
            log_access=False,
            log_level="warning",
            respawn_failed_workers=True,
            workers_kill_timeout=DRAIN,
            websockets=False,
            **more,
        ).serve(target_loader=_make, wrap_loader=False)


def _make() -> Any:
    """The application, in a worker: the process that starts them imports nothing of it."""
    from meguri.outlets.rest.app import make

    return make()


def _environment(options: Options, folder: str, workers: int) -> Mapping[str, str]:
    told = {ENVIRONMENT: json.dumps(asdict(options))}
    return told if workers == 1 else {**told, "PROMETHEUS_MULTIPROC_DIR": folder}


def _free(host: str, port: int) -> None:
    """Several may share a port, so a second service would take half of the first one's requests: refuse it."""
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            what = f"{host}:{port} cannot be listened on: {error.strerror}"
            raise OutletError(what, where="meguri serve", fix="choose another --port, or stop what has it") from error


def _prove(certificate: Path, key: Path) -> None:
    """Read both as TLS will, before anything listens: a worker that cannot would be started again for ever."""
    import ssl

    def ask() -> str:
        raise SettingsError("the key asks for a passphrase", where=key, fix=f"openssl pkey -in {key} -out plain.pem")

    for file in (certificate, key):
        try:
            file.read_bytes()
        except OSError as error:
            what = f"the {'key' if file is key else 'certificate'} cannot be read: {error.strerror}"
            raise SettingsError(what, where=file, fix="see its path and its mode") from error
    if not private(key):
        raise SettingsError("others may read the key", where=key, fix=f"chmod 600 {key}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, ask)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        what = (
            "the key is not the certificate's" if mismatch else "the certificate or the key is no PEM that TLS can use"
        )
        raise SettingsError(what, where=f"{certificate}, {key}", fix="give the pair, both in PEM") from error
