"""The command noiseda-report."""
import argparse
import html
import json
import time
from importlib import metadata, resources
from os import path as osp

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_model.commands import check_positive, json_figures, named_paths, replacing
from noiseda_model.evaluation import METRICS
from noiseda_model.metrics import lpips_network
from noiseda_model.protocols import definition
from noiseda_model.report.pictures import choose, encode_all, thumbnail, window
from noiseda_model.report.runs import read_run, thin
from noiseda_model.report.versions import DEGRADED, TRUTH, measure_all, open_versions

EXAMPLES = """examples:
  noiseda-report results/my_photos --lq my_photos -o report.html
  noiseda-report vanilla=results/vanilla adapted=results/adapted --lq noisy --gt clean \\
      --runs vanilla=experiments/train_vanilla adapted=experiments/train_adapted -o report.html
"""


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='noiseda-report', formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES,
        description='Write one HTML page that shows restored images, their figures and the training runs.\n'
                    'It holds everything it needs: send it, open it from the disk, no server and no network.')
    parser.add_argument('results', nargs='*', metavar='[NAME=]RESULTS',
                        help='folders or LMDBs of restored images, and what to call them')
    parser.add_argument('--lq', help='folder or LMDB of the degraded images')
    parser.add_argument('--gt', help='folder or LMDB of the ground truth: PSNR and SSIM are measured')
    parser.add_argument('--runs', nargs='+', default=[], metavar='[NAME=]RUN',
                        help='experiments/NAME of training runs: curves and options')
    parser.add_argument('-o', '--out', default='report.html', help='the page (default: report.html)')
    parser.add_argument('--title', default='Restoration report', help='its title')
    parser.add_argument('--lpips', action='store_true', help='LPIPS too (AlexNet: NOISEDA_ALEXNET, or downloaded)')
    parser.add_argument('--filename-tmpl', metavar='TMPL',
                        help='name of the restored image of the photo {}, as "{}_restored" (default: found out)')
    parser.add_argument('--show', type=int, default=24, help='images to show; all are measured (default: 24)')
    parser.add_argument('--max-side', type=int, default=1024,
                        help='larger images are cut to this size, where the versions differ most (default: 1024)')
    parser.add_argument('--max-mb', type=float, default=25,
                        help='megabytes of pictures: PNGs if these fit, else JPEGs, else fewer (default: 25)')
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        run(args)


def run(args):
    """:func:`main` on parsed arguments."""
    if not args.results and not args.runs:
        raise InputError('Nothing to show: give folders of restored images, --runs, or both.')
    check_positive(args, 'show', 'max_side', 'max_mb')
    report = {
        'title': args.title, 'made': time.strftime('%Y-%m-%d %H:%M'), 'version': _version(),
        'runs': [read_run(path, label) for label, path in named_paths(args.runs, '--runs').items()],
        'versions': [], 'metrics': [], 'notes': [], 'definition': {}, 'images': [],
    }
    for each in report['runs']:
        each['curves'] = thin(each['curves'])
    with replacing(args.out) as file:  # opened before anything is measured: it may be a place one cannot write to
        pictures = _add_images(report, args) if args.results else {}
        write_page(file, report, pictures)
    print(f'{args.out}: {osp.getsize(args.out) / 1e6:.1f} MB. Open it in a browser.')
    for note in report['notes']:
        print(note)


def _version():
    try:
        return metadata.version('noiseda')
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return ''


def _add_images(report, args):
    """Measure the images, put what is known of them into ``report``; returns {name: {version: data URI}}."""
    results = named_paths(args.results, 'results', (DEGRADED, TRUTH))
    names, versions = open_versions(results, args.lq, args.gt, args.filename_tmpl)
    metrics = {name: block for name, block in METRICS.items() if args.gt and (args.lpips or name != 'LPIPS')}
    if 'LPIPS' in metrics:
        lpips_network()  # that its weights are missing is no image's fault
    measured = measure_all(names, versions, metrics)
    labels = [version.label for version in versions if version.label != TRUTH]
    reference, last = labels[0], labels[-1]
    if len(results) > 1:
        reference = next(iter(results))

    def gain(name):
        figures = measured[name].figures
        return figures[last]['PSNR'] - figures[reference]['PSNR']

    by_gain = args.gt and last != reference
    pictures, encoding = encode_all(lambda count: choose(measured, count, gain if by_gain else None), args.show,
                                    versions, measured, args.max_side, args.max_mb * 1e6)
    report.update(versions=[version.label for version in versions], metrics=list(metrics), reference=reference,
                  definition={name: text for name, text in definition(metrics).items() if name in metrics})
    for name, image in measured.items():
        figures = {label: json_figures(row) for label, row in image.figures.items()}
        entry = {'name': name, 'size': [image.width, image.height], 'figures': figures}
        if name in pictures:
            top, left, height, width = window(image, args.max_side)
            entry.update(window=[left, top, width, height], focus=[image.focus[1] - left, image.focus[0] - top],
                         thumbnail=thumbnail(versions[min(1, len(versions) - 1)].read(name)))
        report['images'].append(entry)
    report['notes'] = _notes(report['images'], args.show, encoding, by_gain, reference, last)
    return pictures


def _notes(images, wanted, encoding, by_gain, reference, last):
    """What was done to the pictures, in sentences."""
    notes = [f'Pictures are {encoding.words}.']
    if images[0]['figures']:
        notes.append('Figures are measured on whole images, in RGB, 8 bit; means are over images.')
    is_whole = [image['window'][2:] == image['size'] for image in images if 'window' in image]
    shown = len(is_whole)
    if shown < len(images):
        over = f'the gain of {last} over {reference}, lowest and highest included' if by_gain else 'the names'
        notes.append(f'{shown} of {len(images)} images are shown, evenly spread over {over}.')
    if shown < min(wanted, len(images)):
        notes.append('More would be larger than --max-mb.')
    if not all(is_whole):
        notes.append(f'{shown - sum(is_whole)} of the pictures are the part of an image where '
                     f'{"the versions differ" if last == reference else f"{reference} and {last} differ"} most.')
    return notes


def write_page(file, report, pictures):
    """Write the page.

    Args:
        file (TextIO): Of the page.
        report (dict): What page.js reads; any text in it is safe, as it becomes JSON, and text nodes from there.
        pictures (dict): name -> {version: data URI}.
    """
    here = resources.files(__package__)
    parts = {name: (here / f'page.{name}').read_text(encoding='utf-8') for name in ('html', 'css', 'js')}
    head, tail = parts['html'].split('<!-- data -->')
    file.write(head.replace('{{title}}', html.escape(report['title'])).replace('/* css */', parts['css']))
    file.write(f'<script type="application/json" id="report">{_json(report)}</script>\n')
    for number, image in enumerate(report['images']):
        for place, version in enumerate(report['versions']):
            if image['name'] in pictures:
                uri = pictures[image['name']][version]
                file.write(f'<script type="text/plain" id="picture-{number}-{place}">{uri}</script>\n')
    file.write(tail.replace('/* js */', parts['js']))


def _json(value):
    """JSON that can stand in a script element: nothing in it begins a tag."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace('<', '\\u003c')
