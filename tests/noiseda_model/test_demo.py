"""noiseda-demo: its work without a browser, then the page through real uploads."""
import contextlib
import os
import re
import signal
import socket
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import pyvips
import torch
from basicsr.archs import build_network
from browser import chromium, watched_page
from cli import run
from images import write_images

from noiseda_arch import RestorationUNet
from noiseda_basicsr import InputError
from noiseda_data.photo import Photo
from noiseda_model import demo as module
from noiseda_model.demo import AUTO, WHOLE, Stopped, Workshop, find_weights, main, preview, serving, tile_size
from noiseda_model.restorer import SHIPPED, Restorer

UNET = {'type': 'RestorationUNet', 'width': 4, 'depth': 2}


def write_weights(path, seed):
    torch.manual_seed(seed)
    torch.save({'params': build_network(UNET).state_dict(), 'network_g': UNET}, path)
    return str(path)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp('weights') / 'net_g_5.pth', 0)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """turned.jpg (EXIF orientation 6), alpha.png (16 bit), grey.tif, text.jpg that is none, and notes.txt."""
    folder, rng = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), (60, 44))
    write_images(folder, {'alpha.png': np.dstack([smooth, smooth[..., 0]]).astype(np.uint16) * 257,
                          'grey.tif': smooth[..., 1]})
    turned = pyvips.Image.new_from_array(smooth)
    turned.set_type(pyvips.GValue.gint_type, 'orientation', 6)
    turned.jpegsave(str(folder / 'turned.jpg'), Q=95)
    (folder / 'text.jpg').write_text('no photo')
    (folder / 'notes.txt').write_text('no photo')
    return folder


def restored(weights, photo, folder, ending=None, **choices):
    """The bytes that noiseda_model.restorer writes."""
    target = folder / f'expected{ending or photo.suffix}'
    Restorer(weights, **choices).file(str(photo), str(target))
    return target.read_bytes()


def files(folder):
    return sorted(path.name for path in Path(folder).rglob('*') if path.is_file())


# ---------------------------------------------------------------------- without a browser


def test_without_gradio_the_command_says_what_to_install(tmp_path):
    code = 'import sys; sys.modules["gradio"] = None; from noiseda_model.demo import main; main(["--no-browser"])'
    process = run(['-c', code], tmp_path)
    assert process.returncode == 1 and process.stdout == 'error: The demo needs gradio: pip install gradio\n'


@pytest.mark.parametrize('name, choices', [
    ('turned.jpg', {}), ('alpha.png', {'tile': 16, 'precision': 'bf16'}), ('grey.tif', {'ensemble': True}),
])
def test_the_result_is_that_of_the_restorer(weights, photos, tmp_path, name, choices):
    told, folder = [], tmp_path / 'results'
    folder.mkdir()
    workshop = Workshop(str(folder))
    target, pictures, line = workshop.restore(str(photos / name), None, {'weights': weights, **choices},
                                              told.append)
    photo = Photo(str(photos / name))
    stem, ending = name.split('.')
    assert Path(target).read_bytes() == restored(weights, photos / name, tmp_path, **choices)
    assert os.path.basename(target) == f'{stem}_restored.{ending}'
    assert line.startswith(f'{name}: {photo.width} x {photo.height} pixels, ')
    assert line.endswith('tiles of 16 pixels.' if 'tile' in choices else 'the whole photo at once.')
    assert told[0] == 0 and told[-1] == 1 and told == sorted(told)
    for picture in pictures:
        shown = Photo(picture)
        assert (shown.width, shown.height, shown.dtype) == (photo.width, photo.height, np.uint8)
        assert pyvips.Image.new_from_file(picture).get_typeof('orientation') == 0


def test_previews_are_small_and_on_white(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'PREVIEW', 20)
    photo = Photo(str(photos / 'alpha.png'))
    shown = Photo(preview(photo, str(tmp_path / 'preview.jpg'))).read().astype(float)
    pixels = cv2.imread(str(photos / 'alpha.png'), cv2.IMREAD_UNCHANGED) / 65535
    flat = 1 - (1 - pixels[..., 2::-1]) * pixels[..., 3:]
    assert shown.shape == (15, 20, 3)
    assert np.abs(shown / 255 - cv2.resize(flat, (20, 15), interpolation=cv2.INTER_AREA)).mean() < 0.02
    monkeypatch.setattr(module, 'PREVIEW', 4096)
    assert Photo(preview(photo, str(tmp_path / 'whole.jpg'))).width == photo.width


def test_a_network_stays_until_the_choices_or_its_file_change(photos, tmp_path):
    path = write_weights(tmp_path / 'net.pth', 0)
    workshop = Workshop(str(tmp_path))
    first = workshop.restorer({'weights': path, 'tile': 16})
    assert workshop.restorer({'weights': path, 'tile': 16}) is first
    assert workshop.restorer({'weights': path, 'tile': 32}).tile == 32
    write_weights(path, 1)
    os.utime(path, (1, 1))
    second = workshop.restorer({'weights': path, 'tile': 16}).net.state_dict()
    assert any(not torch.equal(value, second[name]) for name, value in first.net.state_dict().items())
    os.remove(path)
    with pytest.raises(InputError, match='net.pth: no such file'):
        workshop.restorer({'weights': path, 'tile': 16})


def test_an_option_file_is_for_other_networks_than_the_shipped_one(tmp_path):
    own = tmp_path / 'own.yml'
    own.write_text('network_g: {type: RestorationUNet, width: 4, depth: 2}\n')
    shipped = Workshop(str(tmp_path), str(own)).restorer({'weights': SHIPPED}).net
    assert sum(weight.numel() for weight in shipped.parameters()) > 2e6
    with pytest.raises(InputError):
        Restorer(SHIPPED, str(own))


def test_stop_does_not_wait_for_the_tile_at_work(weights, photos, tmp_path):
    workshop, reached = Workshop(str(tmp_path)), []
    choices = {'weights': weights, 'tile': None}
    layers = [layer for layer in workshop.restorer(choices).net.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer in layers:
        layer.register_forward_hook(lambda *_: reached.append(workshop.stop.set()))
    with pytest.raises(Stopped):
        workshop.restore(str(photos / 'turned.jpg'), None, choices)
    assert len(reached) == 1 < len(layers)
    assert files(tmp_path) == []


def test_a_photo_that_fails_leaves_nothing(weights, photos, tmp_path):
    with pytest.raises(InputError, match='alpha channel, which JPEG cannot hold'):
        Workshop(str(tmp_path)).restore(str(photos / 'alpha.png'), '.jpg', {'weights': weights})
    assert list(tmp_path.iterdir()) == []


def test_weights_are_found_newest_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = {'Noise of photos (shipped)': SHIPPED}
    assert find_weights([]) == shipped
    for age, name in enumerate(['b/models/net_g_2.pth', 'a/models/net_g_1.pth', 'a/models/net_diffusion_1.pth',
                                'a_archived_20260101_000000/models/net_g_1.pth']):
        path = tmp_path / 'experiments' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (100 - age, 100 - age))
    models = {name: str(tmp_path / f'experiments/{name[0]}/models{name[1:]}') for name in ('b/net_g_2.pth',
                                                                                           'a/net_g_1.pth')}
    assert list(find_weights([]).items()) == [*models.items(), *shipped.items()]
    assert find_weights(['experiments/a/models/net_g_1.pth']) == {'a/net_g_1.pth': models['a/net_g_1.pth']}
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/net_g_1.pth').touch()
    both = [models['a/net_g_1.pth'], str(tmp_path / 'a/net_g_1.pth')]
    assert find_weights(both) == dict(zip(both, both, strict=True))
    with pytest.raises(InputError, match='none.pth: no such weights'):
        find_weights(['none.pth'])


def test_tile_sizes():
    assert [tile_size(text) for text in (AUTO, WHOLE, '96')] == ['auto', None, 96]
    for text in ('abc', '-8', '1.5', '', None):
        with pytest.raises(InputError, match=f'Tile is {re.escape(repr(text))}; it must be a number of pixels'):
            tile_size(text)


# ---------------------------------------------------------------------- the page


def test_ctrl_c_ends_it_with_a_word(capsys, monkeypatch):
    ended = []

    @contextlib.contextmanager
    def serve(*args):
        try:
            yield 'http://127.0.0.1:1/'
        finally:
            ended.append(args)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'serving', serve)
    monkeypatch.setattr(time, 'sleep', interrupted)
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    main(['a.pth', '--no-browser', '--port', '1', '--device', 'cpu'])
    assert ended == [(['a.pth'], None, 'cpu', 1, False)]
    assert capsys.readouterr().out == ('The demo is at http://127.0.0.1:1/ on this computer. Ctrl-C ends it.\n'
                                       '\nStopped; uploaded and restored photos are removed.\n')


def test_mistakes_are_told(weights, monkeypatch):
    pytest.importorskip('gradio')
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, words in ((['none.pth'], 'none.pth: no such weights'),
                                 ([weights, '-opt', 'none.yml'], 'none.yml: no such option file'),
                                 ([weights, '--port', port], f'--port {port}: not free here'),
                                 ([weights, '--port', '99999'], '--port 99999: not free here')):
            with pytest.raises(SystemExit) as info:
                main(['--no-browser', *map(str, arguments)])
            assert info.value.code.startswith('error: ') and words in info.value.code


@pytest.fixture(scope='module')
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where the demo's own temporary folder is."""
    return tmp_path_factory.mktemp('temporary')


@pytest.fixture(scope='module')
def address(weights, folder):
    pytest.importorskip('gradio')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, 'tempdir', str(folder))
        with serving([weights]) as address:
            yield address
        assert list(folder.iterdir()) == []


GRADIO_S_OWN = ('Method not implemented.', 'gradio_api/queue/data')  # after an upload; at the end of a stream of events


@pytest.fixture(params=[{'viewport': {'width': 1280, 'height': 900}}], ids=['desktop'])
def page(request, browser, address):
    """The page; a request to elsewhere or an error in the console fails the test."""
    with watched_page(browser, (address, 'data:', 'blob:'), **request.param) as (page, problems):
        page.set_default_timeout(20000)
        page.goto(address)
        page.wait_for_selector('#photo input[type=file]', state='attached')
        yield page
        page.wait_for_timeout(50)
        assert [text for text in problems if not any(own in text for own in GRADIO_S_OWN)] == []


def upload(page, photo):
    page.set_input_files('#photo input[type=file]', str(photo))
    page.locator('#photo').get_by_text(photo.stem).first.wait_for()


def upload_weights(page, path):
    with page.expect_file_chooser() as chooser:
        page.get_by_role('button', name='Other weights').click()
    chooser.value.set_files(str(path))
    page.wait_for_function('text => [...document.querySelectorAll("input")].some(box => box.value == text)',
                           arg=f'{os.path.basename(path)} (uploaded)')


def restore(page, words):
    """Press Restore; the line that appears, once it holds these words."""
    page.get_by_role('button', name='Restore', exact=True).click()
    return line(page, words)


def line(page, words):
    page.locator('#line').get_by_text(words).first.wait_for()
    return page.inner_text('#line')


def downloaded(page):
    with page.expect_download() as download:
        page.locator('#download').click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_a_photo_is_uploaded_compared_and_downloaded(page, weights, photos, tmp_path, folder):
    photo = photos / 'turned.jpg'
    assert page.locator('#download').is_disabled()
    upload(page, photo)
    assert restore(page, 'turned.jpg').startswith('turned.jpg: 44 x 60 pixels, ')
    assert downloaded(page) == ('turned_restored.jpg', restored(weights, photo, tmp_path))
    pictures = page.locator('#result img')
    pictures.nth(1).wait_for()
    for number, path in enumerate([photo, tmp_path / 'expected.jpg']):
        content = page.request.get(pictures.nth(number).get_attribute('src')).body()
        shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(shown.astype(int) - cv2.imread(str(path))).mean() < 2

    def uncovered():
        return page.eval_on_selector_all('#result img', 'all => all.map(image => getComputedStyle(image).clipPath)')

    before, box = uncovered(), page.locator('#result').bounding_box()
    x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 100, y, steps=4)
    page.mouse.up()
    assert uncovered() != before

    page.locator('#photo').get_by_label('Clear').click()
    upload(page, photos / 'grey.tif')
    restore(page, 'grey.tif')
    assert 'grey_restored.tif' in files(folder) and 'turned_restored.jpg' not in files(folder)


def test_choices_are_followed(page, photos, tmp_path):
    photo, other = photos / 'grey.tif', write_weights(tmp_path / 'other.pth', 1)
    upload(page, photo)
    upload_weights(page, other)
    restore(page, 'the whole photo at once')
    assert downloaded(page) == ('grey_restored.tif', restored(other, photo, tmp_path))

    page.get_by_role('button', name='Choices').click()
    page.get_by_label('Tile').fill('16')
    page.keyboard.press('Enter')
    page.get_by_label('bf16').check()
    page.get_by_label('Self-ensemble').check()
    page.get_by_label('File format').click()
    page.get_by_role('option', name='.png').click()
    restore(page, 'in tiles of 16 pixels')
    expected = restored(other, photo, tmp_path, '.png', tile=16, precision='bf16', ensemble=True)
    assert downloaded(page) == ('grey_restored.png', expected)


def test_stop(page, photos, monkeypatch):
    forward = RestorationUNet.forward
    monkeypatch.setattr(RestorationUNet, 'forward', lambda net, image: (time.sleep(1), forward(net, image))[1])
    upload(page, photos / 'alpha.png')
    page.get_by_role('button', name='Choices').click()
    page.get_by_label('Tile').fill('16')  # 20 of them; a number within another choice might choose that
    page.keyboard.press('Enter')
    page.get_by_role('button', name='Restore', exact=True).click()
    page.get_by_text('Restoring').wait_for()
    page.get_by_role('button', name='Stop').click()
    line(page, 'Stopped.')
    assert page.locator('#download').is_disabled()


PHONE = {'viewport': {'width': 375, 'height': 760}, 'is_mobile': True, 'has_touch': True, 'color_scheme': 'dark'}


@pytest.mark.parametrize('page', [PHONE], indirect=True, ids=['phone, dark'])
def test_what_is_wrong_is_told_legibly(page, photos, tmp_path):
    assert restore(page, 'Choose') == 'Choose a photo first.'
    upload(page, photos / 'text.jpg')
    text = restore(page, 'text.jpg')
    assert text.startswith('text.jpg: cannot be read as an image')
    assert page.evaluate('document.documentElement.scrollWidth') <= 375
    colours = [page.eval_on_selector(selector, f'node => getComputedStyle(node).{key}')
               for selector, key in (('body', 'backgroundColor'), ('#line strong', 'color'))]
    back, letters = (sum(map(int, re.findall(r'\d+', colour)[:3])) for colour in colours)
    assert back < 100 and letters > 450

    page.get_by_role('button', name='Choices').click()
    page.get_by_label('Tile').fill('33')
    page.keyboard.press('Enter')
    page.locator('#photo').get_by_label('Clear').click()
    upload(page, photos / 'grey.tif')
    assert restore(page, 'tile is 33').endswith('it must be a multiple of 2 and at least 2.')
    assert page.locator('#download').is_disabled() and page.locator('.toast-body').count() == 0

    (tmp_path / 'none.pth').write_text('no network')
    upload_weights(page, tmp_path / 'none.pth')
    assert restore(page, 'none.pth').startswith('none.pth: ')

    page.locator('#photo').get_by_label('Clear').click()
    page.set_input_files('#photo input[type=file]', str(photos / 'notes.txt'))
    page.get_by_text('Invalid file type: notes.txt').wait_for()
