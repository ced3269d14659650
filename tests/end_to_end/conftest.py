"""A real browser, where there is one."""

import shutil

import pytest


@pytest.fixture(scope="session")
def chromium():
    """Headless Chromium; a test that asks for it is skipped where it or playwright is missing."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason='needs playwright: pip install -e ".[browser]"'
    )
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("needs Chromium on the PATH, e.g. apt install chromium")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
