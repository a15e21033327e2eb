"""The documentation builds without a warning, loads nothing from elsewhere, and says what the source says."""
import ast
import contextlib
import functools
import html
import http.server
import importlib
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


def test_every_equation_stands_beside_code_that_cites_it(site):
    sections = re.split(r'(?=<h2 id=")', (site / 'method.html').read_text())
    shown = {}
    for section in sections:
        number = re.match(r'<h2 id="eq-(\d)', section)
        if number:
            shown[int(number[1])] = html.unescape(re.sub(r'<[^>]+>', '', section[section.index('class="highlight"'):]))
    assert sorted(shown) == [1, 2, 3, 4, 5]
    for number, code in shown.items():
        assert f'Eq. {number}' in code


def test_code_on_the_method_page_is_the_code_and_links_to_its_line(site):
    page, written = (site / 'method.html').read_text(), (ROOT / 'docs/method.md').read_text()
    code = (ROOT / 'noiseda_model/diffusion.py').read_text()
    for match in re.finditer(r'^def (\w+).*?(?=\n\S|\Z)', code, re.M | re.S):
        assert ' '.join(match[0].split()) in text_of(site / 'method.html'), match[1]
    names = re.findall(r'^\[code: ([\w.]+)\]', written, re.M)
    links = re.findall(r'class="source"><a href="source/(\S+?)\.html#__codelineno-0-(\d+)"', page)
    assert len(names) == len(links) > 10
    for name, (path, line) in zip(names, links, strict=True):
        assert (ROOT / path).read_text().splitlines()[int(line) - 1].strip().startswith(f'def {name.split(".")[-1]}(')


def test_code_that_moved_ends_the_build(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'docs/_hooks')
    pages = importlib.import_module('pages')
    for name in ('moved', 'NoiseDAModel.moved'):
        with pytest.raises(pages.PluginError, match='nothing is called moved'):
            pages.definition('noiseda_model/noiseda_model.py', name)


def test_equations_are_mathml(site):
    method, written = (site / 'method.html').read_text(), (ROOT / 'docs/method.md').read_text()
    assert method.count('<math') == len(re.findall(r'^```math$|\$`[^`]+`\$', written, re.M))
    assert '$`' not in method and 'class="language-math' not in method
    fractions = re.findall(r'<mfrac>', method)
    assert len(fractions) == 2  # L_dif of Eq. 3, lambda of Eq. 5


def template(node):
    """The fixed text of an expression, with … for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return ''.join(map(template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else '…'


def test_every_message_has_its_remedy():
    """Each InputError and warning has a row in docs/troubleshooting.md, and each row is of something that is said."""
    rows = re.findall(r'^\| (`.+`) \| (.+) \|$', (ROOT / 'docs/troubleshooting.md').read_text(), re.M)
    entries = [entry for said, _ in rows for entry in re.findall('`([^`]+)`', said)]
    assert min(map(len, entries)) >= 7
    nodes = [node for package in PACKAGES for path in (ROOT / package).rglob('*.py')
             for node in ast.walk(ast.parse(path.read_text()))]
    said = {template(node.args[0]) for node in nodes if isinstance(node, ast.Call) and node.args
            and getattr(node.func, 'id', getattr(node.func, 'attr', None)) in ('InputError', 'warning')}
    said = {text for text in said if len(text.replace('…', '')) > 20}
    assert len(said) > 150
    unexplained = [text for text in said if not any(entry in text for entry in entries)]
    assert not unexplained, 'write what to do about them into docs/troubleshooting.md'
    texts = {template(node) for node in nodes if isinstance(node, (ast.JoinedStr, ast.Constant, ast.BinOp))}
    assert not [entry for entry in entries if not any(entry in text for text in texts)], 'nothing says these any more'


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
        page.goto(f'{address}source/noiseda_model/diffusion.py.html')
        code = (ROOT / 'noiseda_model/diffusion.py').read_text()
        assert page.locator('.highlight code').inner_text().split('\n')[:100] == code.split('\n')[:100]  # as it looks
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
