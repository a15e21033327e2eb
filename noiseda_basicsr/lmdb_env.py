"""One LMDB environment per process and path."""
from os import path as osp

import lmdb

from noiseda_basicsr.errors import InputError

_environments = {}


def open_lmdb(path):
    """Open an LMDB folder read-only, once per process.

    Opening one path twice in a process is refused by lmdb >= 2 (and was undefined before), yet a training and a
    validation set may well share a database. Workers forked later use the inherited map: it is read-only and
    unlocked, so there is nothing to corrupt.

    Args:
        path (str): Folder holding ``data.mdb``.

    Returns:
        lmdb.Environment: Shared by every caller; do not close it.

    Raises:
        InputError: The folder is missing or is no LMDB.
    """
    real_path = osp.realpath(osp.expanduser(path))
    if real_path not in _environments:
        if not osp.isfile(osp.join(real_path, 'data.mdb')):
            raise InputError(f'{path}: no LMDB here (data.mdb is missing). Make one with scripts/create_lmdb.py.')
        try:
            _environments[real_path] = lmdb.open(
                real_path, readonly=True, lock=False, readahead=False, meminit=False)
        except lmdb.Error as error:
            raise InputError(f'{path}: LMDB cannot be opened ({error}). Make it anew with scripts/create_lmdb.py.') \
                from error
    return _environments[real_path]
