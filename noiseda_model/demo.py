"""noiseda-demo: a page, on this computer alone, where a trained network restores photos."""
import argparse
import contextlib
import glob
import html
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from os import path as osp
from unittest import mock

import numpy as np
import pyvips
import torch

from noiseda_basicsr import InputError
from noiseda_data.photo import WRITERS, Photo, kind
from noiseda_model.engine import DTYPES
from noiseda_model.restorer import Restorer, best_device, is_out_of_memory

HOST = '127.0.0.1'
FOUND = 'experiments/*/models/net_g_*.pth'
WEIGHTS = ['.pth', '.safetensors']
PREVIEW = 4096  # longest side of what the slider shows; browsers become slow with more
AUTO, WHOLE, SAME = 'automatic', 'whole photo', 'as the photo'
TILES = [AUTO, WHOLE, '1024', '512', '256', '128']
UPLOADS_KEPT = 24 * 3600  # seconds
CSS = '.gradio-container {max-width: 1500px !important} #result img {object-fit: contain}'


class Stopped(Exception):
    """The user does not want to wait for this photo any longer."""


class Workshop:
    """What the page does. One photo at a time; the latest network stays in memory while the choices stay.

    Args:
        folder (str): For results.
        option_file (str): See :class:`noiseda_model.restorer.Restorer`.
    """

    def __init__(self, folder, option_file=None):
        self.folder, self.option_file = folder, option_file
        self.choices = self.kept = None
        self.stop = threading.Event()

    def restore(self, photo, ending, choices, tell=lambda done, total: None):
        """Restore one photo.

        Args:
            photo (str): File.
            ending (str): Of the file to write, '.png' say; None: as the photo's.
            choices (dict): ``weights`` and any other arguments of Restorer.
            tell (Callable): Called with the megapixels that are done, and all of them.

        Returns:
            tuple: the restored file; (before, after) as JPEGs for the slider; a line on what was done.

        Raises:
            InputError: Anything that the user can mend.
            Stopped: ``stop`` was set meanwhile.
        """
        self.stop.clear()
        opened = Photo(photo)
        total, done = opened.width * opened.height / 1e6, 0

        def count(pixels):
            nonlocal done
            done += pixels / 1e6
            if self.stop.is_set():
                raise Stopped
            tell(done, total)

        restorer = self.restorer(choices)
        folder = tempfile.mkdtemp(dir=self.folder)
        try:
            start = time.perf_counter()
            target = osp.join(folder, f'{osp.splitext(osp.basename(photo))[0]}_restored{ending or kind(photo)}')
            with restorer.rows_of_file(photo, target, tell=count) as writer:
                writer.finish()
            seconds = time.perf_counter() - start
            pictures = tuple(preview(picture, osp.join(folder, f'{name}.jpg'))
                             for name, picture in (('before', opened), ('after', Photo(target))))
        except BaseException:
            shutil.rmtree(folder)
            raise
        return target, pictures, f'{_of_photo(opened)}, {seconds:.1f} s. {_of_restorer(restorer)}'

    def restorer(self, choices):
        choices = {'option_file': self.option_file, **choices}
        if not osp.isfile(choices['weights']):
            raise InputError(f"{choices['weights']}: no such file.")
        if (choices, osp.getmtime(choices['weights'])) != self.choices:
            self.choices = self.kept = None  # makes room for the next one
            try:
                self.kept = Restorer(**choices)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise InputError('The memory is full; choose another device.') from error
                raise
            self.choices = choices, osp.getmtime(choices['weights'])
        return self.kept


def preview(photo, path):
    """Write a photo as browsers show it: upright, 8 bit, on white, sides up to :data:`PREVIEW`; returns the path."""
    try:
        image = photo.image.thumbnail_image(PREVIEW, height=PREVIEW, size='down', no_rotate=True)
        if photo.has_alpha:
            image = image.flatten(background=[np.iinfo(photo.dtype).max] * (photo.image.bands - 1))
        image.jpegsave(path, Q=95, subsample_mode='off', keep='icc')
    except pyvips.Error as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'{photo.path}: cannot be shown ({reason}). Is the disk full?') from error
    return path


def _of_photo(photo):
    largest = max(photo.width, photo.height)
    shown = f', shown at {100 * PREVIEW / largest:.0f} %' if largest > PREVIEW else ''
    return f'{photo.width} x {photo.height} pixels{shown}'


def _of_restorer(restorer):
    tiles = f'tiles of {restorer.tile} pixels' if restorer.tile else 'the whole photo at once'
    return f'{type(restorer.net).__name__} on {restorer.device}, {tiles}.'


def find_weights(given):
    """{label: file} to choose from: those given, else every restoration network of the experiments, newest first."""
    missing = [path for path in given if not osp.isfile(path)]
    if missing:
        raise InputError(f'{missing[0]}: no such weights.')
    if given:
        return {path: osp.abspath(path) for path in given}
    found = sorted(glob.glob(FOUND), key=osp.getmtime, reverse=True)
    return {path.removeprefix('experiments/').replace('/models/', '/'): osp.abspath(path) for path in found}


def tile_size(text):
    """The ``tile`` of a Restorer."""
    names = {AUTO: 'auto', WHOLE: None}
    if text not in names and not re.fullmatch(r'[1-9]\d{0,5}', str(text)):
        raise InputError(f'Tile is {text!r}; it must be a number of pixels, {AUTO!r} or {WHOLE!r}.')
    return names[text] if text in names else int(text)


def devices():
    return list(dict.fromkeys([best_device(), *(f'cuda:{n}' for n in range(torch.cuda.device_count())), 'cpu']))


def message(error, photo):
    """An InputError's text for the page: its files by name alone, its options as they are labelled there."""
    text = str(error).replace(osp.join(osp.dirname(photo), ''), '') if photo else str(error)
    return html.escape(re.sub(r'--(\w+)', r'\1', text))


def build(weights, workshop):
    """The page.

    Args:
        weights (dict): Label -> file, the first one chosen.
        workshop (Workshop)

    Returns:
        gradio.Blocks
    """
    gr = import_gradio()

    def restore(path, photo, tile, precision, device, ensemble, ending, previous, progress=gr.Progress()):  # noqa: B008
        try:
            if not path or not photo:
                raise InputError('Choose a photo first.' if path else 'Choose weights first.')
            choices = {'weights': path, 'tile': tile_size(tile), 'precision': precision, 'device': device,
                       'ensemble': ensemble}
            progress(0, desc='Loading')
            target, pictures, line = workshop.restore(
                photo, None if ending == SAME else ending, choices,
                lambda done, total: progress((round(done, 1), round(total, 1)), desc='Restoring', unit='Mpx'))
        except InputError as error:
            raise gr.Error(message(error, photo), duration=None, print_exception=False) from error
        except Stopped as error:
            raise gr.Error('Stopped.', title='', print_exception=False) from error
        remove(previous)
        return pictures, gr.Markdown(line), gr.DownloadButton(value=target, interactive=True), osp.dirname(target)

    def remove(folder):
        shutil.rmtree(folder or '', ignore_errors=True)

    def add_weights(path):
        label = f'{osp.basename(path)} (uploaded)'
        return gr.Dropdown(choices=[*weights.items(), (label, path)], value=path)

    page = gr.Blocks(title='Noise-DA', analytics_enabled=False, delete_cache=(3600, UPLOADS_KEPT))
    with page:
        result = gr.State(delete_callback=remove)  # the folder of what the page shows
        gr.Markdown('# Noise-DA\nRestores a photo with a trained network. Nothing leaves this computer.')
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                path = gr.Dropdown(list(weights.items()), value=next(iter(weights.values()), None), label='Weights')
                other = gr.UploadButton('Other weights (.pth, .safetensors)', file_types=WEIGHTS, size='sm')
                photo = gr.File(label='Photo (JPEG, PNG, TIFF, WebP)', file_types=sorted(WRITERS), height=170,
                                elem_id='photo')
                with gr.Row():
                    start = gr.Button('Restore', variant='primary', min_width=100)
                    stop = gr.Button('Stop', min_width=60)
                with gr.Accordion('Choices', open=False):
                    tile = gr.Dropdown(TILES, value=AUTO, allow_custom_value=True, label='Tile',
                                       info='Largest side given to the network: less memory, if smaller.')
                    precision = gr.Radio(list(DTYPES), value='fp32', label='Precision')
                    device = gr.Radio(devices(), value=best_device(), label='Device')
                    ensemble = gr.Checkbox(label='Self-ensemble', info='Mean over 8 flips and rotations, in 8 times '
                                           'the time.')
                    ending = gr.Dropdown([SAME, *sorted(WRITERS)], value=SAME, label='File format')
            with gr.Column(scale=3, min_width=300):
                slider = gr.ImageSlider(label='Before and after', interactive=False, max_height=700, elem_id='result',
                                        buttons=['fullscreen'], type='filepath')
                line = gr.Markdown()
                download = gr.DownloadButton('Download the restored photo', interactive=False, elem_id='download')
        other.upload(add_weights, other, path, api_visibility='private')
        start.click(restore, [path, photo, tile, precision, device, ensemble, ending, result],
                    [slider, line, download, result], show_progress_on=slider, api_visibility='private')
        stop.click(workshop.stop.set, queue=False, api_visibility='private')
    return page


def import_gradio():
    try:
        import gradio
    except ImportError as error:
        raise InputError('The demo needs gradio: pip install "noiseda[demo]"') from error
    return gradio


@contextlib.contextmanager
def serving(weights=(), option_file=None, port=None, in_browser=False):
    """The page, served to this computer alone.

    Args:
        weights (list[str]): To choose from; see :func:`find_weights`.
        option_file (str): For weights that do not say what they are.
        port (int): Default: the first free one from 7860.
        in_browser (bool): Open it there.

    Returns:
        str: Its address.

    Raises:
        InputError: gradio or a file is missing, or the port is taken.
    """
    gr = import_gradio()
    found = find_weights(weights)
    if option_file and not osp.isfile(option_file):
        raise InputError(f'{option_file}: no such option file.')
    with tempfile.TemporaryDirectory(prefix='noiseda-demo-', ignore_cleanup_errors=True) as folder, \
            mock.patch.dict(os.environ, GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED='False'):
        workshop = Workshop(folder, option_file)
        page = build(found, workshop)
        theme = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
        try:
            _, address, _ = page.launch(
                server_name=HOST, server_port=port, inbrowser=in_browser, share=False, quiet=True, footer_links=[],
                prevent_thread_lock=True, show_error=True, ssr_mode=False, run_history=False, mcp_server=False,
                pwa=False, theme=theme, css=CSS)
        except OSError as error:
            raise InputError(f'--port {port or "7860 to 7959"}: taken; choose another.') from error
        try:
            yield address
        finally:
            workshop.stop.set()
            page.close(verbose=False)


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='noiseda-demo', description='Restore photos in the browser. The page is served to this computer alone, '
                                         'and nothing is sent elsewhere.')
    parser.add_argument('weights', nargs='*', help=f'net_g_*.pth, or any files that spandrel recognises, to choose '
                                                   f'from (default: {FOUND})')
    parser.add_argument('-opt', help='option file of the network, for weights that do not say what they are')
    parser.add_argument('--port', type=int, help='default: the first free one from 7860')
    parser.add_argument('--no-browser', action='store_true', help='do not open the page')
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed then, too
    try:
        with serving(args.weights, args.opt, args.port, not args.no_browser) as address:
            print(f'The demo is at {address} on this computer. Ctrl-C ends it.', flush=True)
            threading.Event().wait()
    except InputError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print()
