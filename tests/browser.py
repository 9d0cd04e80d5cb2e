"""A real headless browser for the tests of pages: skipped with a reason where none is installed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


def headless_chromium() -> Iterator[Any]:
    """A running Chromium; whoever needs it is skipped where none is installed. A fixture yields from this."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed: the page cannot be opened")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield running
        running.close()


class Visit:
    """An opened page and everything it logged or asked for."""

    def __init__(self, browser: Any, file: Path, fragment: str = "", **options: Any) -> None:
        # Smooth scrolling would move what a test is about to click.
        self.context = browser.new_context(**{"reduced_motion": "reduce"} | options)
        self.page = self.context.new_page()
        self.logged: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.logged.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.logged.append(f"pageerror: {error}"))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(file.as_uri() + fragment)
        self.page.wait_for_selector("html[data-ready=yes]", timeout=60_000)


def until(page: Any, expression: str) -> None:
    """Wait until a JavaScript expression holds. Playwright's own waiting needs eval, which the policy forbids."""
    deadline = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never came true: {expression}"
        page.wait_for_timeout(20)


def pause(page: Any, milliseconds: int) -> None:
    """Wait by the page's own clock, and for what it draws then: its timers that are due before have run, however slow.

    A wait on this side of the wire may be over before a page of a loaded machine has done anything.
    """
    drawn = "requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    page.evaluate(f"new Promise(done => setTimeout(() => {drawn}, {milliseconds}))")
