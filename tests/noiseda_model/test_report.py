"""noiseda-report: its figures and curves, and its page in a browser."""
import base64
import html.parser
import json
import math

import cv2
import numpy as np
import pytest
from browser import chromium, watched_page
from images import write_images
from torch.utils.tensorboard import SummaryWriter

from noiseda_basicsr import InputError
from noiseda_data.store import open_one
from noiseda_model.evaluation import METRICS, measure
from noiseda_model.report.command import main
from noiseda_model.report.pictures import THUMBNAIL, choose, encode_all, jpeg, thumbnail, window
from noiseda_model.report.runs import POINTS, read_curves, read_run, thin
from noiseda_model.report.versions import Measured, find_focus, find_template, measure_all, open_versions

BLOCKS = {name: METRICS[name] for name in ('PSNR', 'SSIM')}
NASTY = 'z<script>boo()<b>&"\'{{title}}'
COLOURS = {'degraded': (90, 90, 90), 'vanilla': (200, 60, 40), 'adapted': (40, 160, 60), 'truth': (50, 150, 70)}
COUNT = 5  # images of the page


def test_a_thumbnail_of_a_strip_is_a_line():
    for shape, size in (((3, 2000), (1, THUMBNAIL)), ((2000, 3), (THUMBNAIL, 1)), ((600, 300), (THUMBNAIL, None))):
        data = base64.b64decode(thumbnail(np.zeros((*shape, 3), np.uint8)).partition(',')[2])
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape
        assert found == (*(side or THUMBNAIL // 2 for side in size), 3)


# ---------------------------------------------------------------- names


class Names:
    """A store of nothing but names."""

    path = 'somewhere'

    def __init__(self, *keys):
        self.keys = sorted(keys)


@pytest.mark.parametrize('names, keys, rule', [
    (['a', 'b'], ['a', 'b', 'c'], '{}'),
    (['a', 'b'], ['a_x', 'b_x'], '{}_x'),
    (['1', '10', '101'], ['1_x', '10_x', '101_x'], '{}_x'),
    (['1', '10'], ['1/1_900', '10/10_900'], '{}/{}_900'),
    (['s/a', 's/b'], ['visualization/set/s/a_v', 'visualization/set/s/b_v', 'other'], 'visualization/set/{}_v'),
])
def test_names_of_results_are_found(names, keys, rule):
    assert find_template(Names(*names), Names(*keys)) == rule


@pytest.mark.parametrize('keys, words', [
    (['a_x', 'c_x'], 'b for example'), (['a_x', 'b_x', 'a_y', 'b_y'], 'several images of each name: {}_x, {}_y. Give'),
    (['a_x', 'b_y'], 'of the 2'),
])
def test_names_that_do_not_match_are_told(keys, words):
    with pytest.raises(InputError) as error:
        find_template(Names('a', 'b'), Names(*keys))
    assert words in str(error.value)


# ---------------------------------------------------------------- figures and pictures


def test_figures_are_those_of_measure(pair_folders, image_folder):
    gt, lq = pair_folders(2)
    result = image_folder('result', 2, seed=3)
    names, versions = open_versions({'ours': result}, lq, gt)
    measured = measure_all(names, versions, BLOCKS)
    assert [version.label for version in versions] == ['degraded', 'ours', 'truth']
    for name in names:
        truth = open_one(gt, '').read(name)
        for label, folder in (('degraded', lq), ('ours', result)):
            image = open_one(folder, '').read(name)
            assert measured[name].figures[label] == measure(image, truth, BLOCKS)
            psnr = 10 * math.log10(255**2 / np.mean((image.astype(float) - truth)**2))
            assert measured[name].figures[label]['PSNR'] == pytest.approx(psnr)


def test_sizes_must_agree(tmp_path, pair_folders):
    gt, lq = pair_folders(1)
    write_images(tmp_path / 'small', {'000.png': np.zeros((40, 40, 3), np.uint8)})
    names, versions = open_versions({'ours': str(tmp_path / 'small')}, lq, gt)
    with pytest.raises(InputError, match='000.png is 48x40 and .*small/000.png is 40x40'):
        measure_all(names, versions, BLOCKS)


@pytest.mark.parametrize('row, column', [(50, 250), (0, 0), (199, 299), (120, 60)])
def test_focus_is_where_versions_differ(row, column):
    one = np.full((200, 300, 3), 100, np.uint8)
    other = one.copy()
    other[max(0, row - 20):row + 20, max(0, column - 20):column + 20] += 9
    found = find_focus(one, other)
    assert abs(found[0] - row) <= 48 and abs(found[1] - column) <= 48
    assert find_focus(one, one) == (100, 150)
    assert find_focus(one[:30, :50], other[:30, :50]) == (15, 25)


def test_window_holds_the_focus():
    for focus in ((0, 0), (99, 299), (50, 120)):
        top, left, height, width = window(Measured(100, 300, focus, {}), 80)
        assert (height, width) == (80, 80)
        assert 0 <= top <= focus[0] < top + height <= 100 and 0 <= left <= focus[1] < left + width <= 300
    assert window(Measured(100, 300, (5, 5), {}), 1000) == (0, 0, 100, 300)


def test_chosen_images_span_the_gain():
    gains = dict(zip('abcdefghij', (5, -3, 2, 9, 0, 1, -1, 4, 3, 7), strict=True))
    chosen = choose(gains, 4, gains.get)
    assert len(chosen) == 4 and {'b', 'd'} <= set(chosen) and chosen == sorted(chosen)
    assert choose(gains, 10) == list(gains) and choose(gains, 1, gains.get) == ['b'] and choose(gains, 2) == ['a', 'j']


def test_pictures_are_exact_where_they_fit(pair_folders):
    gt, lq = pair_folders(2)
    names, versions = open_versions({'ours': lq}, gt=gt)
    measured, pick = measure_all(names, versions, {}), lambda count: names[-count:]
    pictures, encoding = encode_all(pick, 2, versions, measured, 32, 1e6)
    top, left, height, width = window(measured['001'], 32)
    expected = open_one(lq, '').read('001')[top:top + height, left:left + width]
    content = base64.b64decode(pictures['001']['ours'].removeprefix('data:image/png;base64,'))
    assert np.array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], expected)
    size = sum(len(uri) for picture in pictures.values() for uri in picture.values())
    pictures, encoding = encode_all(pick, 2, versions, measured, 32, size - 1)
    assert 'JPEG of quality 95' in encoding.words and 'image/jpeg' in pictures['001']['ours'][:20]
    smallest = sum(len(jpeg(80)(version.read(name)[:32, :32])) for version in versions for name in names)
    pictures, encoding = encode_all(pick, 2, versions, measured, 32, 0.8 * smallest)
    assert list(pictures) == ['001']
    with pytest.raises(InputError, match='--max-side'):
        encode_all(pick, 2, versions, measured, 32, 0.2 * smallest)


# ---------------------------------------------------------------- runs


def write_events(folder, curves):
    with SummaryWriter(str(folder)) as writer:
        for tag, points in curves.items():
            for step, value in points:
                writer.add_scalar(tag, value, step)


def test_curves_are_read_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    written = {'losses/l_pix': [(step, float(np.float32(rng.normal()))) for step in range(0, 3000, 10)],
               'lambda': [(5, 0.125), (10, math.nan)]}
    write_events(tmp_path, written)
    read = read_curves(str(tmp_path))
    assert list(zip(*read['losses/l_pix'], strict=True)) == written['losses/l_pix']
    assert read['lambda'][0] == [5, 10] and math.isnan(read['lambda'][1][1])
    assert thin(read)['lambda'] == [[5, 10], [0.125, None]]
    assert thin(read)['losses/l_pix'] == read['losses/l_pix']


def test_a_resumed_run_replaces_what_it_repeats(tmp_path, monkeypatch):
    monkeypatch.setattr('time.time', lambda: 1000000000.0)
    write_events(tmp_path, {'l': [(10, 1), (20, 2), (30, 3)], 'once': [(10, 7)]})
    monkeypatch.setattr('time.time', lambda: 1000000500.0)
    write_events(tmp_path, {'l': [(20, 5), (30, 6), (40, 8)]})
    assert read_curves(str(tmp_path)) == {'l': [[10, 20, 30, 40], [1, 5, 6, 8]], 'once': [[10], [7]]}


def test_long_curves_are_thinned():
    steps = list(range(10 * POINTS + 3))
    thinned = thin({'l': [steps, [float(step) for step in steps]]})['l']
    assert len(thinned[0]) <= POINTS + 1 and thinned[0] == thinned[1]
    assert thinned[0][0] == 0 and thinned[0][-1] == steps[-1]


def test_events_lie_beside_the_experiment(tmp_path):
    (tmp_path / 'experiments/x').mkdir(parents=True)
    (tmp_path / 'experiments/x/train.yml').write_text('name: x\n')
    write_events(tmp_path / 'tb_logger/x', {'l': [(1, 0.5)]})
    run = read_run(str(tmp_path / 'experiments/x'), 'mine')
    assert run == {'label': 'mine', 'curves': {'l': [[1], [0.5]]}, 'options': [['train.yml', 'name: x\n']]}
    with pytest.raises(InputError, match='holds no option file'):
        read_run(str(tmp_path), 'mine')


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize('arguments, words', [
    ([], 'Nothing to show'),
    (['missing'], 'results: missing does not exist'),
    (['a={lq}', 'a={gt}'], 'the name a is taken; choose another'),
    (['degraded={lq}'], 'the name degraded is taken'),
    (['a={lq}', '--runs', 'nowhere'], 'nowhere does not exist'),
    (['a={lq}', '--show', '0'], '--show 0'),
    (['a={lq}', '--gt', '{gt}', '--filename-tmpl', 'x'], 'must hold {}'),
    (['a={lq}', '--gt', '{gt}', '--filename-tmpl', '{}_x'], 'no image 000_x'),
    (['a={lq}', '-o', '{lq}/000.png/page.html'], '000.png: this folder cannot be made'),
    (['a={lq}', '-o', '{lq}'], 'lq: is a folder; name a file'),
    (['a={lq}', '--runs', 'x='], 'is not of the form NAME=PATH'),
])
def test_mistakes_are_told(arguments, words, pair_folders):
    gt, lq = pair_folders(1)
    with pytest.raises(SystemExit) as error:
        main([text.replace('{lq}', lq).replace('{gt}', gt) for text in arguments])
    assert str(error.value).startswith('error: ') and words in str(error.value)


def make_page(folder):
    """A page of images of one colour each, with two runs, the names and options as nasty as can be."""
    names = [f'{number:03d}' for number in range(COUNT - 1)] + [NASTY]
    for version, colour in COLOURS.items():
        suffix = '_restored' if version in ('vanilla', 'adapted') else ''
        shift = 0 if version == 'truth' else 1
        write_images(folder / version, {
            f'{name}{suffix}.png': np.full((60, 90, 3), np.array(colour) + shift * 2 * at, np.uint8)
            for at, name in enumerate(names)})
    curves = {'losses/l_pix': [(step, 1 / (1 + step)) for step in range(0, 400, 10)],
              'metrics/set/psnr': [(100, 20), (200, 22)]}
    for run, more in (('vanilla', {}), ('adapted', {'lambda': [(0, 0), (300, 0.2)]})):
        (folder / 'experiments' / run).mkdir(parents=True)
        (folder / 'experiments' / run / 'train.yml').write_text(f'name: {run}\nnote: "</script><b>boo()</b>"\n')
        write_events(folder / 'tb_logger' / run, curves | more)
    main([f'{name}={folder / name}' for name in ('vanilla', 'adapted')] + [
        '--lq', str(folder / 'degraded'), '--gt', str(folder / 'truth'), '--title', NASTY, '-o', str(folder / 'r.html'),
        '--runs', *(str(folder / 'experiments' / name) for name in ('vanilla', 'adapted'))])
    return folder / 'r.html'


@pytest.fixture(scope='module')
def page_file(tmp_path_factory):
    return make_page(tmp_path_factory.mktemp('page'))


def test_text_stays_text(page_file):
    scripts, texts = [], []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag == 'script':
                scripts.append(dict(attributes))
            assert not any(name.startswith('on') for name, _ in attributes)

        def handle_data(self, data):
            texts.append((self.lasttag, data))

    Parser().feed(page_file.read_text())
    assert len(scripts) == 2 + COUNT * len(COLOURS)
    assert ('h1', NASTY) in texts and ('title', NASTY) in texts
    report = json.loads(next(data for _, data in texts if data.startswith('{"title"')))
    assert report['title'] == report['images'][-1]['name'] == NASTY
    assert report['runs'][0]['options'][0][1].endswith('</b>"\n')
    assert report['images'][0]['figures']['vanilla']['PSNR'] == pytest.approx(
        10 * math.log10(255**2 / np.mean((np.subtract(COLOURS['vanilla'], COLOURS['truth']))**2.0)))


# ---------------------------------------------------------------- in the browser


@pytest.fixture(scope='module')
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(params=[{'viewport': {'width': 1280, 'height': 900}}], ids=['desktop'])
def page(request, browser, page_file):
    """The page, opened from the disk; whatever goes wrong in it fails the test."""
    with watched_page(browser, **request.param) as (page, problems):
        page.set_default_timeout(5000)
        page.goto(page_file.as_uri())
        page.wait_for_selector('#options')
        yield page
        page.wait_for_timeout(50)
        assert not problems


def colour_at(page, selector, x, y):
    """RGB of a screenshot of an element at a share of its width and height."""
    image = cv2.imdecode(np.frombuffer(page.locator(selector).screenshot(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    return tuple(image[int(image.shape[0] * y), int(image.shape[1] * x)].tolist())


def transforms(page, selector):
    return page.eval_on_selector_all(f'{selector} img', '''images => images.map(image => {
        const matrix = new DOMMatrix(getComputedStyle(image).transform); return [matrix.a, matrix.e, matrix.f]; })''')


def test_slider_uncovers(page):
    assert page.title() == page.inner_text('h1') == NASTY
    for x, version in ((0.2, 'vanilla'), (0.8, 'adapted')):
        assert colour_at(page, '.stage', x, 0.9) == COLOURS[version]
    page.locator('.handle').drag_to(page.locator('.stage'), target_position={'x': 20, 'y': 100})
    assert colour_at(page, '.stage', 0.2, 0.9) == COLOURS['adapted']
    before = page.eval_on_selector('.layer + .layer', 'layer => getComputedStyle(layer).clipPath')
    page.focus('.handle')
    page.keyboard.press('End')
    page.keyboard.press('PageDown')
    assert page.get_attribute('.handle', 'aria-valuenow') == '90'
    assert before != page.eval_on_selector('.layer + .layer', 'layer => getComputedStyle(layer).clipPath')
    assert colour_at(page, '.stage', 0.8, 0.9) == COLOURS['vanilla']
    page.get_by_label('left', exact=True).select_option('degraded')
    assert colour_at(page, '.stage', 0.8, 0.9) == COLOURS['degraded']
    page.get_by_role('button', name='Difference').click()
    difference = [min(255, 8 * abs(a - b)) for a, b in zip(COLOURS['degraded'], COLOURS['adapted'], strict=True)]
    assert np.abs(np.subtract(colour_at(page, '.stage', 0.5, 0.5), difference)).max() <= 2


def test_zoom_is_synchronised(page):
    def state():
        (one, two), panes = transforms(page, '.layer'), transforms(page, '.pane')
        assert one == two and len(panes) == len(COLOURS) and all(pane == panes[0] for pane in panes)
        return one, panes[0]

    stage, pane = state()
    page.get_by_label('Zoom in').click()
    nearer, pane_nearer = state()
    assert nearer[0] == pytest.approx(1.5 * stage[0]) and pane_nearer[0] == pytest.approx(1.5 * pane[0], rel=1e-3)
    page.mouse.move(*centre(page, '.stage'))
    page.mouse.down()
    x, y = centre(page, '.stage')
    page.mouse.move(x - 30, y - 20, steps=3)
    page.mouse.up()
    moved, pane_moved = state()
    assert moved != nearer and pane_moved != pane_nearer and moved[0] == nearer[0]
    page.mouse.wheel(0, -100)  # the stage was clicked, so it zooms
    page.wait_for_timeout(100)
    assert state()[0][0] > moved[0]
    page.keyboard.press('0')
    assert state()[0][0] == pytest.approx(stage[0])


def centre(page, selector):
    box = page.locator(selector).bounding_box()
    return box['x'] + box['width'] / 2 + 100, box['y'] + box['height'] / 2 + 60


def test_table_sorts(page):
    def column(number):
        cells = page.locator(f'.tall tbody tr > :nth-child({number})').all_inner_texts()
        return [float(text.replace('\u2212', '-')) for text in cells]

    def header(number):
        return page.locator(f'.tall thead th:nth-child({number})')

    for number in (3, 5):  # vanilla; adapted - vanilla
        header(number).get_by_role('button').click()
        assert header(number).get_attribute('aria-sort') == 'descending'
        falling = column(number)
        assert falling == sorted(falling, reverse=True) and len(set(falling)) > 1
        page.keyboard.press('Enter')
        assert header(number).get_attribute('aria-sort') == 'ascending' and column(number) == falling[::-1]
    page.get_by_role('group', name='Metric').get_by_role('button', name='SSIM').click()
    assert max(column(3)) <= 1
    page.locator('.tall tbody').get_by_role('button', name=NASTY).click()
    assert page.locator('.pane img').first.get_attribute('alt') == f'{NASTY}, degraded, crop'
    assert page.locator('tr.current th').inner_text() == NASTY


def test_plots_have_their_curves_and_tips(page):
    titles = page.eval_on_selector_all('#training figcaption', 'nodes => nodes.map(node => node.textContent.trim())')
    assert titles == ['set/psnr', 'l_pix', 'lambda']
    plot = page.locator('#training .plot', has_text='l_pix').locator('svg')
    assert plot.locator('.curve:not(.raw)').count() == 2
    plot.hover()
    assert page.locator('#tip').inner_text().startswith('vanilla, iteration ')
    before = plot.locator('.curve').last.get_attribute('d')
    page.get_by_label('logarithmic').check()
    assert plot.locator('.curve').last.get_attribute('d') != before
    page.locator('#figures .plot svg').first.hover()
    assert 'vanilla: ' in page.locator('#tip').inner_text()


def test_every_control_has_a_name(page):
    nameless = page.evaluate('''() => [...document.querySelectorAll('button, select, input, [tabindex], svg[role]')]
        .filter(node => !(node.getAttribute('aria-label') || node.labels?.length || node.textContent.trim()))
        .map(node => node.outerHTML.slice(0, 80))''')
    assert not nameless
    assert page.eval_on_selector_all('img', 'images => images.every(image => image.hasAttribute("alt"))')


CONTRAST = '''selector => {
    const light = text => { const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(v => (v / 255) ** 2.2);
                            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const text = light(getComputedStyle(document.querySelector(selector)).color);
    const back = light(getComputedStyle(document.body).backgroundColor);
    return [back, (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05)]; }'''


@pytest.mark.parametrize('page', [{'color_scheme': 'light'}, {'color_scheme': 'dark'}], indirect=True, ids=str)
def test_both_colour_schemes_are_legible(page, request):
    is_dark = 'dark' in request.node.name
    for selector in ('h1', '.note', 'nav a', 'td.gain'):
        back, contrast = page.evaluate(CONTRAST, selector)
        assert (back < 0.05) == is_dark and contrast > 4.5, selector


PHONE = {'viewport': {'width': 375, 'height': 760}, 'has_touch': True, 'is_mobile': True, 'device_scale_factor': 2}
TOO_WIDE = '''() => [...document.querySelectorAll('main *')]
    .filter(node => !node.closest('.scroll, pre, .view, .stage, .thumbnails, svg'))
    .filter(node => node.getBoundingClientRect().right > 375.5).map(node => node.outerHTML.slice(0, 80))'''


@pytest.mark.parametrize('page', [PHONE], indirect=True, ids=['phone'])
def test_a_phone_is_wide_enough(page):
    assert page.evaluate('document.documentElement.scrollWidth') <= 375
    assert page.evaluate(TOO_WIDE) == []
    page.get_by_label('Next image').tap()
    assert page.locator('.pane img').first.get_attribute('alt') == '001, degraded, crop'


@pytest.mark.parametrize('page', [PHONE], indirect=True, ids=['phone'])
def test_a_tap_reads_a_plot(page):
    plot = page.locator('#training .plot', has_text='l_pix').locator('svg')
    plot.tap()
    tip = page.locator('#tip')
    assert tip.inner_text().startswith('vanilla, iteration ')
    page.locator('#training-title').tap()
    assert not tip.is_visible()


@pytest.mark.parametrize('page', [PHONE], indirect=True, ids=['phone'])
def test_fingers_move_the_slider_and_pinch(page):
    touches = page.context.new_cdp_session(page)

    def touch(kind, *points):
        touches.send('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': [
            {'x': x, 'y': y, 'id': finger} for finger, (x, y) in enumerate(points)]})

    def drag(*ways):
        for kind, share in (('touchStart', 0), ('touchMove', 0.3), ('touchMove', 0.7), ('touchMove', 1)):
            touch(kind, *(np.add(start, np.multiply(share, np.subtract(end, start))).tolist() for start, end in ways))
        touch('touchEnd')

    page.locator('.stage').scroll_into_view_if_needed()
    box = page.locator('.stage').bounding_box()
    middle, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    drag(((middle + 60, y), (middle + 60 - box['width'] / 2, y)))
    assert int(page.get_attribute('.handle', 'aria-valuenow')) == round(60 / box['width'] * 100)
    stage, pane = transforms(page, '.layer')[0][0], transforms(page, '.pane')[0][0]
    drag(((middle - 20, y), (middle - 60, y)), ((middle + 20, y), (middle + 60, y)))
    assert transforms(page, '.layer')[0][0] == pytest.approx(3 * stage, rel=0.02)
    assert [scale for scale, _, _ in transforms(page, '.pane')] == pytest.approx([3 * pane] * len(COLOURS), rel=0.02)


def test_pages_without_truth_or_images(browser, page_file, tmp_path):
    folder = page_file.parent
    main([str(folder / 'vanilla'), '-o', str(tmp_path / 'one.html')])
    main(['--runs', str(folder / 'experiments/adapted'), '-o', str(tmp_path / 'runs.html')])
    for name, sections in (('one', ['images']), ('runs', ['training', 'options'])):
        with watched_page(browser) as (page, problems):
            page.goto((tmp_path / f'{name}.html').as_uri())
            assert page.eval_on_selector_all('section', 'nodes => nodes.map(node => node.id)') == sections
            assert not page.locator('.handle, .tag.right').filter(visible=True).count()  # nothing to compare
        assert not problems
