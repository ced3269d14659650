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


@pytest.fixture
def open_page(chromium):
    """Opens files in a browser that has never seen them; the test fails on what the console says,
    on errors, and on any request but for the files themselves."""
    heard, asked, contexts, opened = [], [], [], set()

    def open_file(path, before: str = "", **settings):
        contexts.append(chromium.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("console", lambda m: heard.append(m.text))
        page.on("pageerror", lambda e: heard.append(str(e)))
        page.on("request", lambda r: asked.append(r.url))
        if before:
            page.add_init_script(before)
        page.goto(path.as_uri())
        opened.add(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert heard == []
    assert {u for u in asked if not u.startswith(("data:", "blob:"))} == opened
