"""Look at pages in headless Chromium, over its debugging pipe: no port, no driver, no further package."""

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Browser:
    """One open page."""

    _send: int
    _receive: Any
    session: str = ""
    errors: list[str] = field(default_factory=list)
    """What the console and the page complained of."""
    requests: list[str] = field(default_factory=list)
    """Addresses that were asked for, but those of the page itself and of `data:`."""
    opened: list[str] = field(default_factory=list)
    """Addresses of windows that the page opened."""
    _number: int = 0

    def call(self, method: str, *, of_browser: bool = False, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer; note what happens meanwhile."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self.session and not of_browser:
            message["sessionId"] = self.session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._receive.read(1)) != b"\0":
            assert byte, "the browser is gone"
            data += byte
        message = dict(json.loads(data))
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"].get("exception", parameters)))
        elif method == "Log.entryAdded":
            self.errors.append(str(parameters["entry"]["text"]))
        elif method == "Runtime.consoleAPICalled":
            self.errors.append(str(parameters["args"]))
        elif method == "Network.requestWillBeSent":
            address = parameters["request"]["url"]
            if not address.startswith("data:") and parameters.get("type") != "Document":
                self.requests.append(address)
        elif method == "Target.targetCreated":
            self.opened.append(parameters["targetInfo"]["url"])

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Show a page in a window of this size."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """Return the value of an expression in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true, for ten seconds at most."""
        for _ in range(200):
            if self.run(condition):
                return
            time.sleep(0.05)  # not in the page: its scripts may be switched off
        raise AssertionError(f"never true: {condition}")

    def press(self, key: str) -> None:
        """Press a key such as `ArrowLeft`, `Enter` or `Tab`."""
        codes = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=codes.get(key, 0), **text)

    def point(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse somewhere in the window, and press it."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> Path:
        """Write the whole page as PNG."""
        size = self.run("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], 8000), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    @property
    def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        return int(self.run("document.documentElement.scrollWidth - window.innerWidth"))


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium and lend one page of it."""
    assert CHROMIUM, "there is no Chromium"
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = "--headless=new --no-sandbox --disable-gpu --no-first-run --hide-scrollbars --remote-debugging-pipe"
        # the browser reads from descriptor 3 and writes to 4
        start = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
        process = subprocess.Popen(
            ["bash", "-c", start, CHROMIUM, *options.split(), f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser[0], from_browser[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            with os.fdopen(from_browser[0], "rb") as receive:
                page = Browser(to_browser[1], receive)
                target = page.call("Target.createTarget", url="about:blank")["targetId"]
                page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
                for domain in ("Page", "Runtime", "Network", "Log"):
                    page.call(f"{domain}.enable")
                page.call("Target.setDiscoverTargets", of_browser=True, discover=True)
                page.opened.clear()
                yield page
        finally:
            os.close(to_browser[1])
            process.kill()
            process.wait()
