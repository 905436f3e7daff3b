"""A page opened in headless Chromium, without a network, over the browser's debugging pipe; no package is needed."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE = 120  # seconds without a word from the browser
_MEASURE = """({
    title: document.title,
    figures: document.querySelectorAll('figure').length,
    charts: document.querySelectorAll('figure.chart svg[role=img]').length,
    tables: document.querySelectorAll('table').length,
    pictures: document.images.length,
    broken: [...document.images].filter(i => !(i.complete && i.naturalWidth)).length,
    unnamed: [...document.images].filter(i => !i.alt).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    text: document.body.innerText,
    background: getComputedStyle(document.body).backgroundColor,
})"""


@dataclass(frozen=True)
class OpenedPage:
    """What the browser saw.

    Args:
        facts: numbers of ``figures``, ``charts``, ``tables``, ``pictures``, ``broken`` pictures, pictures without
            alternative text (``unnamed``); ``overflow`` in pixels beyond the screen's width; ``title``, ``text``,
            ``background``.
        complaints: errors and warnings of the console, exceptions, refused or failed requests.
        requests: addresses asked for, but for the file itself and data in it.
    """

    facts: dict
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def open_page(path: Path, width: int = 1000, dark: bool = False) -> OpenedPage:
    """Opens a file at a screen width; skips the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no chromium to open the page with; on Debian: apt-get install chromium")
    with _Browser(program) as browser:
        return browser.open(path.resolve().as_uri(), width, dark)


class _Browser:
    def __init__(self, program: str) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def wire() -> None:  # the debugging pipe is file descriptors 3 and 4
            high = [os.dup(to_browser), os.dup(from_browser)]
            for number, end in enumerate(high, start=3):
                os.dup2(end, number)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        no_network = ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--no-first-run"]
        self._process = subprocess.Popen(
            [program, *flags, *no_network],
            preexec_fn=wire,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._sent, self.events = b"", 0, []

    def __enter__(self) -> _Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def open(self, address: str, width: int, dark: bool) -> OpenedPage:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

        def call(method: str, **arguments: object) -> dict:
            return self._call(method, session, **arguments)

        for domain in ("Page", "Runtime", "Log", "Network"):
            call(f"{domain}.enable")
        call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        call("Emulation.setEmulatedMedia", features=[scheme])
        call("Page.navigate", url=address)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())
        facts = call("Runtime.evaluate", expression=_MEASURE, returnByValue=True)["result"]["value"]
        return OpenedPage(facts, self._complaints(), self._requests(address))

    def _complaints(self) -> list[str]:
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Network.loadingFailed")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def _requests(self, address: str) -> list[str]:
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if url != address and not url.startswith("data:")]

    def _call(self, method: str, session: str | None = None, **arguments: object) -> dict:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": arguments}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._sent:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], _PATIENCE)
            piece = os.read(self._in, 1 << 16) if ready else b""
            assert piece, "the browser ended or stood still before the page was open"
            self._buffer += piece
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)
