"""The one door to BasicSR: makes version 1.4.2 import and run on today's PyTorch, on CPU and GPU.

Importing this package only makes ``import basicsr`` possible (see :mod:`noiseda_basicsr.imports`); every other
repair is applied by the launchers :func:`noiseda_basicsr.launch.train` and :func:`noiseda_basicsr.launch.test`.
"""
from noiseda_basicsr.imports import make_basicsr_importable

make_basicsr_importable()

from noiseda_basicsr.errors import InputError, errors_in_one_line  # noqa: E402
from noiseda_basicsr.lmdb_env import open_lmdb  # noqa: E402

__all__ = ['InputError', 'errors_in_one_line', 'open_lmdb']
