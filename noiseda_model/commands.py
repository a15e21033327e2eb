"""What the commands share: checks of their arguments, tables, and the files they write."""
import csv
import math
import os
from os import path as osp

import numpy as np

from noiseda_basicsr import InputError
from noiseda_basicsr.checkpoint import written_whole


def named_paths(texts, option, taken=()):
    """{name: path} of NAME=PATH, or of PATH alone, whose name is that of the folder or file.

    Raises:
        InputError: A name or a path is missing; a name is given twice or is one of ``taken``.
    """
    named = {}
    for text in texts:
        name, equals, path = text.partition('=')
        if not equals or os.sep in name:
            name, path = osp.basename(osp.abspath(text)), text
        if not name or not path:
            raise InputError(f'{option}: {text!r} is not of the form NAME=PATH.')
        if name in named or name in taken:
            raise InputError(f'{option}: the name {name} is taken; choose another, as other={path}.')
        named[name] = path
    return named


def check_positive(args, *names):
    """Refuse arguments that are not above 0; None is none."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise InputError(f'--{name.replace("_", "-")} {value:g}: must be above 0.')


def refuse_overwriting(targets, sources):
    """Refuse to write over what is read.

    Args:
        targets, sources (Iterable[str]): Files or folders.
    """
    sources = {osp.realpath(osp.expanduser(source)) for source in sources}
    for target in targets:
        if osp.realpath(target) in sources:
            raise InputError(f'{target}: is read and would be overwritten; choose another place.')


def refuse_existing(folders):
    """Refuse to write images beside those of an earlier run, which would count as this one's."""
    for folder in folders:
        if osp.exists(folder):
            raise InputError(f'{folder}: exists already. Remove it, or choose another place.')


def make_folder(path):
    """Before anything is computed in vain.

    Raises:
        InputError
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise InputError(f'{path}: this folder cannot be made ({error.strerror}). Choose another.') from error


def replacing(path):
    """A text file to write by :func:`~noiseda_basicsr.checkpoint.written_whole`, a context.

    Raises:
        InputError: It cannot be written.
    """
    if osp.isdir(path):
        raise InputError(f'{path}: is a folder; name a file.')
    make_folder(osp.dirname(osp.abspath(path)))
    return written_whole(path, remedy='Make room, or choose another place.')


def write_rows(path, rows):
    """Dicts as CSV by :func:`replacing`, floats with six digits; the columns are all their keys."""
    with replacing(path) as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows({key: f'{value:.6g}' if isinstance(value, (float, np.floating)) else value
                          for key, value in row.items()} for row in rows)


def markdown_table(header, rows):
    """Cells of text as Markdown with aligned columns."""
    lines = [header, *rows]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ['-' * width for width in widths])
    return '\n'.join('| ' + ' | '.join(map(str.ljust, cells, widths)) + ' |' for cells in lines)


def json_figures(row):
    """{metric: float} for JSON, which knows no infinity (the PSNR of equal images)."""
    return {metric: value if math.isfinite(value) else str(value) for metric, value in row.items()}
