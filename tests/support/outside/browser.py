"""A page in a real, headless Chromium, over the DevTools protocol's pipe: no library, no port, no network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
_OPTIONS = (
    *("--headless=new", "--no-first-run", "--window-size=1400,900", "--disable-dev-shm-usage", "--no-sandbox"),
    *("--enable-unsafe-swiftshader", "--disable-quic", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # this machine is all of the network
)


class Page:
    """One tab.

    Attributes
    ----------
    errors
        What went to the console as an error, and exceptions that nobody caught.
    requests
        The URLs that were asked for.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, os.fdopen(back, "rb", buffering=0)
        self._left = b""
        self._count = 0
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(answer["error"]["message"])
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            read = self._back.read(1 << 20)
            if not read:
                raise RuntimeError("the browser has ended")
            self._left += read
        raw, _, self._left = self._left.partition(b"\0")
        message = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(json.dumps(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def ask(self, expression: str) -> Any:
        """Return what a JavaScript expression gives, after the promise that it may be."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def look(self, *, dark: bool = False, width: int = 1280) -> None:
        """Set what the reader has: a light or a dark screen, and how wide it is."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def open(self, url: str) -> None:
        """Begin to load a page; `wait` for what is to be there."""
        self.call("Page.navigate", url=url)

    def open_report(self, path: Path) -> None:
        """Load a report, up to where all of its plots are drawn."""
        self.open(path.as_uri())
        self.wait("document.documentElement.dataset.drawn !== undefined")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until `condition` holds in the page, also over a reload."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.ask(f"new Promise((done) => setTimeout(() => done(Boolean({condition})), 50))"):
                    return
            except RuntimeError as error:
                if "navigated" not in str(error) and "context" not in str(error):
                    raise
        raise AssertionError(f"{condition} did not come to hold; the page says:\n{self.text()}")

    def text(self) -> str:
        """Return what a reader sees."""
        return str(self.ask("document.body ? document.body.innerText : ''"))

    def wait_for_text(self, text: str) -> None:
        """Wait until the page says `text`."""
        self.wait(f"document.body && document.body.innerText.includes({json.dumps(text)})")

    def press(self, key: str, code: int) -> None:
        """Press a key where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def picture(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def print(self, path: Path) -> None:
        """Write the page as a PDF, as a printer gets it."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"]))


@contextmanager
def browser(*options: str) -> Iterator[Page]:
    """Start Chromium with a profile of its own and further `options`, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        there, to = os.pipe()
        back, here = os.pipe()
        words = [CHROMIUM, *_OPTIONS, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        # the protocol's pipes are descriptors 3 and 4
        script = f'exec "$@" 3<&{there} 4>&{here}'
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words], pass_fds=(there, here), stderr=subprocess.DEVNULL
        )
        os.close(there)
        os.close(here)
        try:
            page = Page(to, back)
            yield page
            page._session = None
            page.call("Browser.close")
        finally:
            os.close(to)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
