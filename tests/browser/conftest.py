"""Debian's Chromium, headless, driven by Playwright, which brings no browser of its own here."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kernel.commands.doctor import browser as installed_browser

CHROMIUM = installed_browser()


@contextmanager
def opened_browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: 'make browser' installs one, where it may")
    with opened_browser() as opened:
        yield opened


@pytest.fixture
def page(browser):
    """A page that keeps what it prints as errors, and every request that leaves its file."""
    opened = browser.new_page(viewport={"width": 1300, "height": 900})
    opened.trouble = []
    opened.on("console", lambda message: opened.trouble.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: opened.trouble.append(str(error)))
    opened.on("dialog", lambda dialog: (opened.trouble.append(f"dialog {dialog.message}"), dialog.dismiss()))
    opened.on("request", lambda request: None if request.url.startswith(("file:", "data:"))
              else opened.trouble.append(request.url))  # fmt: skip
    yield opened
    assert opened.trouble == []
    opened.close()
