"""Headless Chromium, driven through Debian's chromedriver by the few commands of WebDriver that are needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A green picture with a moving disc for the camera, and nobody is asked.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
_KEYS = {"Tab": "\ue004", "End": "\ue010", "Home": "\ue011", "Left": "\ue012", "Right": "\ue014", "Space": " "}
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def programs() -> tuple[str, str] | None:
    """chromedriver and chromium, if both are there."""
    found = shutil.which("chromedriver"), shutil.which("chromium")
    return None if None in found else found  # type: ignore[return-value]


class Browser:
    def __init__(self, profile: Path) -> None:
        driver, chromium = programs() or ("", "")
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ}
        )
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.wait(self._ready, 60)
        options = dict(binary=chromium, args=[*FLAGS, f"--user-data-dir={profile}"])
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options}
        value = self._call("POST", "/session", dict(capabilities=dict(alwaysMatch=capabilities)))
        self.base += f"/session/{value['sessionId']}"

    def _ready(self) -> bool:
        try:
            return bool(self._call("GET", "/status")["ready"])
        except OSError:
            return False

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with self.opener.open(request, timeout=180) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error

    def close(self) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(30)

    def open(self, url: str) -> None:
        self._call("POST", "/url", dict(url=url))

    def size(self, width: int, height: int) -> None:
        # Of the page itself: headless windows have a least width.
        metrics = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self._call("POST", "/goog/cdp/execute", dict(cmd="Emulation.setDeviceMetricsOverride", params=metrics))

    def run(self, script: str, *args: Any) -> Any:
        return self._call("POST", "/execute/sync", dict(script=script, args=list(args)))

    def _element(self, selector: str) -> str:
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    def click(self, selector: str) -> None:
        self._call("POST", f"/element/{self._element(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into an element; for a file input the path is what is chosen."""
        self._call("POST", f"/element/{self._element(selector)}/value", dict(text=text))

    def press(self, key: str) -> None:
        """Press a key wherever the focus is."""
        value = _KEYS[key]
        keys = [dict(type="keyDown", value=value), dict(type="keyUp", value=value)]
        self._call("POST", "/actions", dict(actions=[dict(type="key", id="keys", actions=keys)]))

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def shown(self, selector: str) -> bool:
        script = "return document.querySelector(arguments[0]).checkVisibility()"
        return bool(self.run(script, selector))

    def wait(self, condition: Callable[[], Any], seconds: float = 90) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.1)
        raise TimeoutError("the page did not get there")

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))
