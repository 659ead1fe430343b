"""A real browser without a window, driven over Chromium's own protocol."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = (
    *("--headless", "--disable-gpu", "--no-first-run", "--disable-quic", "--window-size=1400,900"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)


@contextmanager
def chromium():
    """Start a browser; yields the address of its debugger."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        words = [CHROMIUM, *_OPTIONS, *sandbox, f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stderr:
                if "DevTools listening on ws://" in line:
                    yield line.split("ws://")[1].split("/")[0]
                    break
            else:
                raise AssertionError("chromium did not start")
        finally:
            process.kill()
            process.communicate()


class Page:
    """A page of the browser; each method waits for what it asks."""

    def __init__(self, socket):
        self._socket = socket
        self._calls = 0

    async def call(self, method, **params):
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": params})
        while True:
            answer = await self._socket.receive_json(timeout=30)
            if answer.get("id") == self._calls:
                return answer["result"]

    async def open(self, url):
        await self.call("Page.navigate", url=url)

    async def run(self, expression):
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def text(self):
        return await self.run("document.body ? document.body.innerText : ''")

    async def until(self, expression, seconds=60):
        """Wait until JavaScript's `expression` is true."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not await self.run(expression):
            assert asyncio.get_running_loop().time() < deadline, f"{expression}\n{await self.text()}"
            await asyncio.sleep(0.2)

    async def until_text(self, text):
        await self.until(f"document.body && document.body.innerText.includes({json.dumps(text)})")

    async def screenshot(self, path):
        import base64

        shot = await self.call("Page.captureScreenshot")
        Path(path).write_bytes(base64.b64decode(shot["data"]))


def visit(steps):
    """Run `steps`, a coroutine function that is given a page."""

    async def go(address):
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{address}/json/list") as answer:
                (page,) = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                await steps(Page(socket))

    with chromium() as address:
        asyncio.run(go(address))
