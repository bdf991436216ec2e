"""A page in headless Chromium, by the DevTools protocol on a pair of pipes: what it shows, says and asks for."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# The browser reads what it is told from file 3 and answers on file 4.
_AS_3_AND_4 = """
import fcntl, os, sys
files = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1:3]]
for file, number in zip(files, (3, 4)):
    os.dup2(file, number)
    os.close(file)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Shown(NamedTuple):
    """A page as it came out.

    Attributes:
      said: errors and warnings of the console, and what the page's own policy refused.
      asked: addresses that it asked for beside itself, but for pictures that it holds.
      overflow: pixels that it is wider than the window.
      ground: colour behind the text.
      pictures: how many pictures it has, and how many of them are shown.
      png: a picture of all of it.
    """

    said: list[str]
    asked: list[str]
    overflow: int
    ground: str
    pictures: tuple[int, int]
    png: bytes


class Browser:
    """A running browser with one empty page."""

    def __init__(self, to: int, back: int):
        self._to, self._back, self._rest, self._number = to, os.fdopen(back, "rb", 0), b"", 0
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = ""
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def show(self, page: Path, *, width: int, dark: bool, height: int = 900) -> Shown:
        """Loads a file and returns what came of it."""
        self._events.clear()
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=page.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._read()
        ground = self._value("getComputedStyle(document.body).backgroundColor")
        overflow = self._value("document.documentElement.scrollWidth - window.innerWidth")
        self._value("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        whole = "Promise.all([...document.images].map(i => i.decode().then(() => 1, () => 0)))"
        there = self._call("Runtime.evaluate", expression=whole, awaitPromise=True, returnByValue=True)
        decoded = there["result"]["value"]
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True, format="png")["data"]
        of = lambda method: [event["params"] for event in self._events if event["method"] == method]
        said = [event["entry"]["text"] for event in of("Log.entryAdded")]
        said += [str(event) for event in of("Runtime.consoleAPICalled") if event["type"] in ("error", "warning")]
        said += [str(event) for event in of("Runtime.exceptionThrown")]
        asked = [event["request"]["url"] for event in of("Network.requestWillBeSent")]
        asked = [url for url in asked if not url.startswith("data:") and url != page.absolute().as_uri()]
        return Shown(said, asked, overflow, ground, (len(decoded), sum(decoded)), base64.b64decode(shot))

    def _value(self, expression: str) -> Any:
        return self._call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        session = getattr(self, "_session", "")
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = self._back.read(1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        line, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(line)
        if "method" in message:
            self._events.append(message)
        return message


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Browser]:
    """A browser, while the context lasts, with a profile in a folder."""
    (to_read, to), (back, back_write) = os.pipe(), os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={folder}", "about:blank"]
    python = [sys.executable, "-c", _AS_3_AND_4, str(to_read), str(back_write), *command]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(python, pass_fds=(to_read, back_write), **quiet)
    os.close(to_read)
    os.close(back_write)
    try:
        yield Browser(to, back)
    finally:
        process.kill()
        process.wait()
        os.close(to)
