"""The documentation builds without a warning, loads nothing from elsewhere, and says what the source says."""
import contextlib
import functools
import html
import http.server
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browser import chromium, watched_page
from cli import ROOT

pytest.importorskip('material', reason="the documentation's packages are not installed (pip install '.[docs]')")
pytest.importorskip('mkdocstrings')
pytest.importorskip('latex2mathml')
PACKAGES = ('noiseda_arch', 'noiseda_basicsr', 'noiseda_data', 'noiseda_model')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The folder of the site, built strictly."""
    folder = tmp_path_factory.mktemp('site')
    process = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', folder], cwd=ROOT,
                             env=os.environ | {'NO_MKDOCS_2_WARNING': '1'}, text=True, capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert 'WARNING' not in process.stderr
    return folder


def text_of(page):
    """The visible text of a page, white space as one space each."""
    body = re.sub(r'<(script|style).*?</\1>', '', page.read_text(encoding='utf-8'), flags=re.S)
    return ' '.join(html.unescape(re.sub(r'<[^>]+>', '', body)).split())


class Links(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.loaded, self.followed, self.anchors = [], [], set()
        self.feed(page.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs.get('id'), attrs.get('name')}
        if tag == 'a':
            self.followed.append(attrs.get('href') or '')
        elif tag == 'link' and attrs.get('rel') not in ('canonical', 'prev', 'next') and attrs.get('href'):
            self.loaded.append(attrs['href'])
        self.loaded += [attrs[name] for name in ('src', 'srcset', 'poster', 'data') if attrs.get(name)]


def is_elsewhere(address):
    return address.startswith('//') or urlsplit(address).scheme in ('http', 'https')


def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob('*.html'))
    assert len(pages) > 20
    for page in pages:
        assert not [address for address in Links(page).loaded if is_elsewhere(address)], page
    for sheet in site.rglob('*.css'):
        addresses = re.findall(r'url\(["\']?([^)"\']+)|@import ["\']([^"\']+)', sheet.read_text(encoding='utf-8'))
        assert not [address for pair in addresses for address in pair if is_elsewhere(address)], sheet


def test_every_link_within_the_site_leads_somewhere(site):
    links = {page: Links(page) for page in site.rglob('*.html') if page.name != '404.html'}  # whose links begin with /
    broken = []
    for page, found in links.items():
        for address in found.followed + found.loaded:
            parts = urlsplit(address)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.is_file() or (parts.fragment and target in links
                                        and unquote(parts.fragment) not in links[target].anchors):
                broken.append(f'{page.relative_to(site)}: {address}')
    assert not broken


def test_every_page_is_in_the_navigation():
    def targets(entry):
        if isinstance(entry, str):
            return [entry]
        return [target for inner in (entry.values() if isinstance(entry, dict) else entry) for target in targets(inner)]

    listed = targets(yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav'])
    pages = {page.relative_to(ROOT / 'docs').as_posix() for page in (ROOT / 'docs').rglob('*.md')}
    assert len(listed) == len(set(listed))
    assert not pages - set(listed)


def test_every_equation_the_code_cites_is_on_the_method_page(site):
    code = (ROOT / 'noiseda_model/diffusion.py').read_text()
    cited = set()
    for first, last in re.findall(r'Eq\. (\d)(?:-(\d))?', code):
        cited |= set(range(int(first), int(last or first) + 1))
    assert cited == {1, 2, 3, 4, 5}
    headings = re.findall(r'<h2 id="eq-(\d)', (site / 'method.html').read_text())
    assert sorted(cited) == [int(number) for number in headings]


def test_the_method_page_shows_the_code_as_it_is(site):
    page = text_of(site / 'method.html')
    code = (ROOT / 'noiseda_model/diffusion.py').read_text()
    functions = re.findall(r'^def (\w+).*?(?=^\S|\Z)', code, re.M | re.S)
    assert len(functions) >= 8
    for match in re.finditer(r'^def (\w+).*?(?=\n\S|\Z)', code, re.M | re.S):
        assert ' '.join(match[0].split()) in page, match[1]


def test_equations_are_mathml(site):
    method, written = (site / 'method.html').read_text(), (ROOT / 'docs/method.md').read_text()
    assert method.count('<math') == len(re.findall(r'^```math$|\$`[^`]+`\$', written, re.M))
    assert '$`' not in method and 'class="language-math' not in method
    fractions = re.findall(r'<mfrac>', method)
    assert len(fractions) == 2  # L_dif of Eq. 3, lambda of Eq. 5


def test_every_message_is_in_the_table(site):
    raised = sum(len(re.findall(r'(?<!class )\bInputError\(', path.read_text()))
                 for package in PACKAGES for path in (ROOT / package).rglob('*.py'))
    page = (site / 'troubleshooting.html').read_text()
    rows = re.findall(r'<tr class="message"><td>(.*?)</td><td>(.*?)</td></tr>', page, re.S)
    assert raised == len(rows) > 100
    assert all(wrong.strip() and remedy.strip() for wrong, remedy in rows)
    rows = [tuple(map(html.unescape, row)) for row in rows]
    assert ('‹name›: cannot be decoded as an image', 'Remove or replace it.') in rows
    assert any(wrong.startswith('degradation: ‹options› must be a block, for example {type: awgn') for wrong, _ in rows)


def test_the_reference_has_every_module(site):
    anchors = set().union(*(Links(page).anchors for page in (site / 'api').glob('*.html')))
    for package in PACKAGES:
        for path in (ROOT / package).rglob('*.py'):
            parts = path.relative_to(ROOT).with_suffix('').parts
            assert '.'.join(parts).removesuffix('.__init__') in anchors
    assert 'noiseda_model.diffusion.diffusion_loss' in anchors
    assert 'Draw everything random of one step.' in text_of(site / 'api/noiseda_model.html')


# ---------------------------------------------------------------------- in a browser


@pytest.fixture(scope='module')
def address(site):
    """The address of a local server of the site (its search wants one)."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()


@pytest.fixture(scope='module')
def browser():
    with chromium() as browser:
        yield browser


@contextlib.contextmanager
def opened(browser, address, **context):
    """A page that fails the test if anything goes wrong in it; what leaving a page interrupts is no wrong."""
    with watched_page(browser, allowed=[address, 'data:', 'blob:'], **context) as (page, problems):
        yield page
    assert not [problem for problem in problems if 'ERR_ABORTED' not in problem]


def test_pages_and_search_in_a_browser(browser, address):
    with opened(browser, address, viewport={'width': 1280, 'height': 900}) as page:
        for name in ('method', 'troubleshooting', 'api/noiseda_model'):
            page.goto(f'{address}{name}.html', wait_until='load')
            assert page.locator('h1').first.is_visible()
        page.goto(f'{address}index.html')
        page.locator('input.md-search__input').fill('activation checkpointing')
        result = page.locator('a.md-search-result__link').first
        result.wait_for()
        result.click()
        page.wait_for_url(re.compile(r'(performance|networks|troubleshooting|api/).*html'))


def test_phone_and_dark_mode(browser, address):
    with opened(browser, address, viewport={'width': 375, 'height': 800}, color_scheme='dark') as page:
        for name in ('index', 'method', 'troubleshooting', 'data'):
            page.goto(f'{address}{name}.html', wait_until='load')
            assert page.evaluate('document.body.dataset.mdColorScheme') == 'slate'
            assert page.evaluate('document.documentElement.scrollWidth') <= 375, name
