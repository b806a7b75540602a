"""Headless Chromium for tests, through its debugging pipe."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any


class Browser:
    """Headless Chromium, spoken to through its debugging pipe (Chrome DevTools Protocol, one JSON message to a NUL)."""

    def __init__(self, program: str, folder: Path) -> None:
        here_in, there_out = os.pipe()
        there_in, here_out = os.pipe()
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        command += [
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--remote-debugging-pipe",
        ]
        redirect = f'exec "$@" 3<&{there_in} 4>&{there_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", *command, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(there_in, there_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there_in)
        os.close(there_out)
        self.read, self.write = os.fdopen(here_in, "rb"), os.fdopen(here_out, "wb", buffering=0)
        self.watch = threading.Timer(90, self.process.kill)  # a browser that hangs ends the test instead of stopping it
        self.watch.start()
        self.count = 0
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def message(self) -> dict[str, Any]:
        raw = bytearray()
        while (sign := self.read.read(1)) != b"\0":
            if not sign:
                raise EOFError("the browser has ended")
            raw += sign
        found: dict[str, Any] = json.loads(raw)
        return found

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        own = {"sessionId": self.session} if self.session else {}
        self.write.write(json.dumps({"id": self.count, "method": method, "params": params} | own).encode() + b"\0")
        while (answer := self.message()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, *, width: int, scheme: str = "light") -> None:
        self("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message())

    def value(self, script: str) -> Any:
        return self("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        self.watch.cancel()
        self.process.kill()
        self.process.wait()
        self.read.close()
        self.write.close()
