"""One LMDB environment per process and path."""
import os
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
        InputError: The folder is missing, is no LMDB, or was copied only in part.
    """
    real_path = osp.realpath(osp.expanduser(path))
    if real_path not in _environments:
        data = osp.join(real_path, 'data.mdb')
        if not osp.isfile(data):
            raise InputError(f'{path}: no LMDB here (data.mdb is missing). Make one with scripts/create_lmdb.py.')
        try:
            # readahead, unlike BasicSR: an image spans hundreds of pages, each a disk access of its own without it
            environment = lmdb.open(real_path, readonly=True, lock=False)
        except lmdb.Error as error:
            raise InputError(f'{path}: LMDB cannot be opened ({error}). Make it anew with scripts/create_lmdb.py.') \
                from error
        whole = (environment.info()['last_pgno'] + 1) * environment.stat()['psize']
        if os.stat(data).st_size < whole:  # reading the missing part would kill the process (SIGBUS)
            environment.close()
            raise InputError(f'{path}: data.mdb has {os.stat(data).st_size} of {whole} bytes; copy it again.')
        _environments[real_path] = environment
    return _environments[real_path]
