"""Headless Chromium for the tests of pages.

    @pytest.fixture(scope='module')
    def browser():
        with chromium() as browser:
            yield browser

    def test_page(browser):
        with watched_page(browser, viewport={'width': 375, 'height': 800}) as (page, problems):
            page.goto(file.as_uri())
            ...
        assert not problems
"""
import contextlib
import shutil

import pytest

PROGRAMS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking']
LOCAL = ('file:', 'data:', 'blob:', 'about:')


@contextlib.contextmanager
def chromium():
    """The installed Chromium or Chrome as a Playwright browser; the test is skipped where there is none."""
    api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed (pip install playwright)')
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f'no browser in PATH (looked for {", ".join(PROGRAMS)})')
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def watched_page(browser, allowed=LOCAL, **context):
    """A new page in a context of its own, and a list that fills with what goes wrong in it.

    Args:
        browser: Of :func:`chromium`.
        allowed (Iterable[str]): How the addresses it may ask for begin, as ``http://127.0.0.1:7860/``; a request for
            another one is a problem, and is not made.
        context: Playwright's options of ``new_context``: viewport, color_scheme, has_touch ...

    Returns:
        tuple: page, and a list[str] of console errors and warnings, uncaught exceptions, failed and foreign requests.
    """
    problems = []

    def check(route):
        url = route.request.url
        if url.startswith(tuple(allowed)):
            route.continue_()
        else:
            problems.append(f'request for {url[:200]}')
            route.abort()

    with contextlib.closing(browser.new_context(**context)) as opened:
        opened.route('**/*', check)
        page = opened.new_page()
        page.on('pageerror', lambda error: problems.append(f'exception: {error}'))
        page.on('requestfailed', lambda request: problems.append(f'failed: {request.url[:200]} {request.failure}'))
        page.on('console', lambda message: message.type in ('error', 'warning')
                and problems.append(f'console {message.type}: {message.text}'))
        yield page, problems
