"""A page, served to this computer alone, where a trained network restores photos; and the command noiseda-demo."""
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

import numpy as np
import pyvips

from noiseda_basicsr import InputError
from noiseda_data.photo import WRITERS, Photo
from noiseda_model.engine import DTYPES
from noiseda_model.restorer import SHIPPED, Restorer

HOST = '127.0.0.1'
FOUND = 'experiments/*/models/net_g_*.pth'
LABEL = 'Noise of photos (shipped)'
PREVIEW = 4096  # longest side of what the slider shows; browsers become slow with more
AUTO, WHOLE, SAME = 'automatic', 'whole photo', 'as the photo'
TILES = [AUTO, WHOLE, '1024', '512', '256', '128']
UPLOADS_KEPT = 24 * 3600  # seconds
CSS = '''.gradio-container {max-width: 1500px !important; margin: 0 auto !important}
    #result img {object-fit: contain}
    #line .html-container {padding: 0}
    #line strong {color: #b91c1c}
    .dark #line strong {color: #fca5a5}'''


class Stopped(Exception):
    """The user does not want to wait for this photo any longer."""


class Workshop:
    """What the page does. One photo at a time; the latest network stays in memory while the choices stay.

    Args:
        folder (str): For results.
        option_file, device (str): See :class:`noiseda_model.restorer.Restorer`.
    """

    def __init__(self, folder, option_file=None, device=None):
        self.folder, self.fixed = folder, {'option_file': option_file, 'device': device}
        self.kept = self.kept_for = None
        self.stop = threading.Event()

    def restore(self, photo, ending, choices, tell=lambda share: None):
        """Restore one photo.

        Args:
            photo (str): File.
            ending (str): Of the file to write, '.png' say; None: as the photo's.
            choices (dict): ``weights`` and other arguments of Restorer.
            tell (Callable): Called with the share of the pixels that is done, from 0 to 1.

        Returns:
            tuple: the restored file; (before, after) as JPEGs for the slider; a line on what was done.

        Raises:
            InputError: Anything that the user can mend.
            Stopped: ``stop`` was set meanwhile.
        """
        def count(pixels):
            nonlocal done
            done += pixels
            tell(done / (opened.width * opened.height))

        self.stop.clear()
        done, opened, restorer = 0, Photo(photo), self.restorer(choices)
        count(0)
        name, own = osp.splitext(osp.basename(photo))
        folder = tempfile.mkdtemp(dir=self.folder)
        target = osp.join(folder, f'{name}_restored{ending or own}')
        start = time.perf_counter()
        try:
            with restorer.rows_of_file(photo, target, tell=count) as writer:
                writer.finish()
            seconds = time.perf_counter() - start
            pictures = tuple(preview(picture, osp.join(folder, f'{side}.jpg'))
                             for side, picture in (('before', opened), ('after', Photo(target))))
        except BaseException:
            shutil.rmtree(folder)
            raise
        return target, pictures, f'{name}{own}: {_of_photo(opened)}, {seconds:.1f} s. {_of_restorer(restorer, opened)}'

    def restorer(self, choices):
        """The network for these choices; that for others makes room for it."""
        weights = choices['weights']
        if not osp.isfile(weights):
            raise InputError(f'{weights}: no such file.')
        wanted = {**choices, 'written': osp.getmtime(weights)}  # a training may write it anew
        if wanted != self.kept_for:
            self.kept = self.kept_for = None
            own = {'option_file': None} if weights == SHIPPED else {}  # it says itself what it is
            self.kept = Restorer(**choices, **{**self.fixed, **own})
            for module in self.kept.net.modules():  # so that not even the tile at work is waited for
                module.register_forward_pre_hook(self._check)
            self.kept_for = wanted
        return self.kept

    def _check(self, *_):
        if self.stop.is_set():
            raise Stopped


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


def _of_restorer(restorer, photo):
    in_tiles = restorer.tile and max(photo.width, photo.height) > restorer.tile
    how = f'in tiles of {restorer.tile} pixels' if in_tiles else 'the whole photo at once'
    return f'{type(restorer.net).__name__} on {restorer.device}, {how}.'


def find_weights(given):
    """{label: file} to choose from: those given, else the experiments' networks, newest first, then the shipped one."""
    missing = [path for path in given if not osp.isfile(path)]
    if missing:
        raise InputError(f'{missing[0]}: no such weights.')
    found = [path for path in glob.glob(FOUND) if '_archived_' not in path]  # as BasicSR calls what it puts aside
    paths = [osp.abspath(path) for path in given or sorted(found, key=osp.getmtime, reverse=True)]
    labels = ['/'.join([part for part in path.split(os.sep) if part != 'models'][-2:]) for path in paths]
    found = {label if labels.count(label) == 1 else path: path for label, path in zip(labels, paths, strict=True)}
    return found if given else {**found, LABEL: SHIPPED}


def tile_size(text):
    """The ``tile`` of a Restorer."""
    names = {AUTO: 'auto', WHOLE: None}
    if text in names:
        return names[text]
    if not str(text).isdecimal():
        raise InputError(f'Tile is {text!r}; it must be a number of pixels, {AUTO!r} or {WHOLE!r}.')
    return int(text)


def message(error, folder):
    """An InputError's text for the page: files of the demo's folder by name alone, options as labelled there."""
    text = re.sub(re.escape(folder) + r'[\\/]\w+[\\/]', '', str(error)).replace('--', '')
    return f'<strong>{html.escape(text)}</strong>'


def build(weights, workshop):
    """The page.

    Args:
        weights (dict): Label -> file, the first one chosen.
        workshop (Workshop)

    Returns:
        gradio.Blocks
    """
    gr = import_gradio()

    def clear(target):
        remove(target)
        return show()

    def remove(target):
        if target:
            shutil.rmtree(osp.dirname(target), ignore_errors=True)

    def show(pictures=None, line='', target=None):
        return pictures, line, gr.DownloadButton(value=target, interactive=target is not None), target

    def restore(path, photo, tile, precision, ensemble, ending, progress=gr.Progress()):  # noqa: B008
        try:
            if not path or not photo:
                raise InputError('Choose a photo first.' if path else 'Choose weights first.')
            choices = {'weights': path, 'tile': tile_size(tile), 'precision': precision, 'ensemble': ensemble}
            progress(0, desc='Loading')
            target, pictures, line = workshop.restore(
                photo, None if ending == SAME else ending, choices,
                lambda share: progress(share, desc='Restoring'))
        except InputError as error:
            return show(line=message(error, workshop.folder))
        except Stopped:
            return show(line='Stopped.')
        return show(pictures, html.escape(line), target)

    def add_weights(path):
        label = f'{osp.basename(path)} (uploaded)'
        return gr.Dropdown(choices=[*weights.items(), (label, path)], value=path)

    with gr.Blocks(title='Noise-DA', analytics_enabled=False, fill_width=True,
                   delete_cache=(3600, UPLOADS_KEPT)) as page:
        result = gr.State(delete_callback=remove)  # the restored file that the page shows
        gr.Markdown('# Noise-DA\nRestores a photo with a trained network. Nothing leaves this computer.')
        with gr.Row():
            with gr.Column(scale=1, min_width=340):
                path = gr.Dropdown(list(weights.items()), value=next(iter(weights.values()), None), label='Weights')
                other = gr.UploadButton('Other weights (.pth, .safetensors)', file_types=['.pth', '.safetensors'],
                                        size='sm')
                photo = gr.File(label='Photo (JPEG, PNG, TIFF, WebP)', file_types=sorted(WRITERS), height=170,
                                elem_id='photo')
                with gr.Row():
                    start = gr.Button('Restore', variant='primary', min_width=100)
                    stop = gr.Button('Stop', min_width=60)
                with gr.Accordion('Choices', open=False):
                    tile = gr.Dropdown(TILES, value=AUTO, allow_custom_value=True, label='Tile',
                                       info='Largest side given to the network; a smaller one needs less memory.')
                    precision = gr.Radio(list(DTYPES), value='fp32', label='Precision')
                    ensemble = gr.Checkbox(label='Self-ensemble',
                                           info='Mean over 8 flips and rotations, in 8 times the time.')
                    ending = gr.Dropdown([SAME, *sorted(WRITERS)], value=SAME, label='File format')
            with gr.Column(scale=3, min_width=300):
                line = gr.HTML(elem_id='line')
                slider = gr.ImageSlider(label='Before and after', interactive=False, max_height=700, elem_id='result',
                                        buttons=['fullscreen'], type='filepath')
                download = gr.DownloadButton('Download the restored photo', interactive=False, elem_id='download')
        other.upload(add_weights, other, path, api_visibility='private')
        shown = [slider, line, download, result]
        start.click(clear, result, shown, queue=False, show_progress='hidden', api_visibility='private').then(
            restore, [path, photo, tile, precision, ensemble, ending], shown, show_progress_on=slider,
            api_visibility='private')
        stop.click(workshop.stop.set, queue=False, api_visibility='private')
    return page


def import_gradio():
    try:
        import gradio
    except ImportError as error:
        raise InputError('The demo needs gradio: pip install gradio') from error
    return gradio


@contextlib.contextmanager
def serving(weights=(), option_file=None, device=None, port=None, in_browser=False):
    """The page, served to this computer alone.

    Args:
        weights (list[str]): To choose from; see :func:`find_weights`.
        option_file (str): For weights that do not say what they are.
        device (str): See :class:`noiseda_model.restorer.Restorer`.
        port (int): Default: the first free one from 7860.
        in_browser (bool): Open it there.

    Returns:
        str: Its address.

    Raises:
        InputError: gradio or a file is missing, or the port cannot be had.
    """
    gr = import_gradio()
    found = find_weights(weights)
    if option_file and not osp.isfile(option_file):
        raise InputError(f'{option_file}: no such option file.')
    with tempfile.TemporaryDirectory(prefix='noiseda-demo-', ignore_cleanup_errors=True) as folder:
        folder = osp.realpath(folder)  # as Gradio names files in it
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED='False')
        workshop = Workshop(folder, option_file, device)
        page = build(found, workshop)
        theme = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
        try:
            _, address, _ = page.launch(
                server_name=HOST, server_port=port, inbrowser=in_browser, share=False, quiet=True, footer_links=[],
                prevent_thread_lock=True, show_error=True, ssr_mode=False, run_history=False, mcp_server=False,
                pwa=False, theme=theme, css=CSS)
        except (OSError, OverflowError) as error:
            raise InputError(f'--port {port or "7860 to 7959"}: not free here; choose another, 1024 to 65535.'
                             ) from error
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
                                                   f'from (default: {FOUND}, and the network shipped here)')
    parser.add_argument('-opt', help='option file of the network, for weights that do not say what they are')
    parser.add_argument('--device', help='cuda, cuda:1, mps, cpu (default: the best there is)')
    parser.add_argument('--port', type=int, help='default: the first free one from 7860')
    parser.add_argument('--no-browser', action='store_true', help='do not open the page')
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed then, too
    try:
        with serving(args.weights, args.opt, args.device, args.port, not args.no_browser) as address:
            print(f'The demo is at {address} on this computer. Ctrl-C ends it.', flush=True)
            while True:  # a signal that another thread receives does not end an endless wait
                time.sleep(1)
    except InputError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print('\nStopped; uploaded and restored photos are removed.')
