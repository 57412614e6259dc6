"""Pages in a headless Chromium, watched: whatever a test does, a page reports no error and asks nothing of a network.

NUCLEI_BROWSER names the browser's program, where it is none of PROGRAMS nor the one that `playwright install chromium`
brings. Without a browser these tests are skipped, and say so.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LOCAL = ("file", "data", "blob", "about")  # schemes that reach nothing but this machine's disk and memory
DESKTOP_PX, PHONE_PX = 1400, 390  # widths that pages are looked at in
HEIGHT_PX = 900


def find_browser(own: str) -> str | None:
    """Return the path of a browser: what NUCLEI_BROWSER names, one of the system, or playwright's `own`."""
    named = os.environ.get("NUCLEI_BROWSER")
    found = [shutil.which(name) for name in ([named] if named else PROGRAMS)]
    return next((path for path in found if path), own if not named and Path(own).is_file() else None)


@pytest.fixture(scope="module")
def browser():
    """Give a headless browser; skip the tests where there is none."""
    # Of one module, as its event loop would be in the way of others' in this process.
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install '.[dev]'")
    with sync_api.sync_playwright() as playwright:
        path = find_browser(playwright.chromium.executable_path)
        if path is None:
            pytest.skip("no Chromium: `playwright install chromium`, or name one by NUCLEI_BROWSER")
        try:
            # Chromium has no sandbox for root.
            started = playwright.chromium.launch(executable_path=path, chromium_sandbox=os.geteuid() != 0)
        except sync_api.Error as error:
            pytest.skip(f"{path} does not start: {str(error).partition(chr(10))[0]}")
        yield started
        started.close()


def is_local(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in LOCAL or (parts.scheme == "http" and parts.hostname == "127.0.0.1")


def watch(page) -> list[str]:
    """Return a list that from now on gets the errors and warnings of a page, and what it asks of a network."""
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: None if is_local(request.url) else faults.append(f"asked for {request.url}"))
    return faults


@pytest.fixture
def page(browser) -> Iterator:
    """Give an empty page of DESKTOP_PX; when the test ends, no error was reported and nothing asked of a network."""
    context = browser.new_context(viewport={"width": DESKTOP_PX, "height": HEIGHT_PX}, accept_downloads=True)
    opened = context.new_page()
    faults = watch(opened)
    yield opened
    context.close()
    assert not faults


def check_width(page) -> None:
    """Fail if a page can be scrolled sideways, and name what sticks out of it."""
    wide = page.evaluate(
        """() => document.documentElement.scrollWidth <= document.documentElement.clientWidth ? [] :
        [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
          .slice(0, 5).map(e => e.outerHTML.slice(0, 120))"""
    )
    assert not wide


def wait_until(page, condition: str, timeout_s: float = 20.0) -> None:
    """Wait until an expression of JavaScript is true; playwright's wait_for_function needs eval, which pages forbid."""
    end = time.monotonic() + timeout_s
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < end, f"after {timeout_s} s not: {condition}"
        page.wait_for_timeout(25)


@pytest.fixture
def open_file(page) -> Callable:
    """Give `open_file(path, width=DESKTOP_PX, dark=False)`: open a file, or an address, and return the page.

    It fails if what was opened can be scrolled sideways.
    """

    def open_one(path: Path | str, width: int = DESKTOP_PX, dark: bool = False):
        page.set_viewport_size({"width": width, "height": HEIGHT_PX})
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.goto(path if isinstance(path, str) else path.resolve().as_uri())
        check_width(page)
        return page

    return open_one
