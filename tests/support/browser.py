"""A real browser: Debian's Chromium, driven through Playwright."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

AXE_VERSION = "4.14.1"
INSTALL_TIMEOUT_S = 120
DESKTOP, PHONE = (1440, 900), (390, 844)


def chromium_arguments() -> dict[str, Any]:
    """Return how Playwright launches the system's Chromium."""
    return {
        "executable_path": shutil.which("chromium") or shutil.which("chromium-browser"),
        # As root there is no sandbox; the only pages are our own, on loopback.
        "args": ["--no-sandbox", "--disable-dev-shm-usage"],
    }


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Run the browser until the end of the context; the test is skipped where there is none."""
    arguments = chromium_arguments()
    if arguments["executable_path"] is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**arguments)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def page_at(
    browser: Browser, address: str, size: tuple[int, int] = DESKTOP
) -> AsyncIterator[Page]:
    """Open a page; an error that its script raises fails the test."""
    width, height = size
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        bypass_csp=True,  # for axe's own script
    )
    errors: list[str] = []
    page = await context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        await page.goto(address)
        yield page
    finally:
        await context.close()
    assert errors == []


def axe_source(directory: Path) -> str:
    """Return axe-core's script, from npm; the test is skipped where there is no npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, for axe-core")
    subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", f"axe-core@{AXE_VERSION}"],
        cwd=directory,
        check=True,
        timeout=INSTALL_TIMEOUT_S,
    )
    return (directory / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
