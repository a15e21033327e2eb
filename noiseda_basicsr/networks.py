"""Networks, which may be anybody's: built, and the place of an error in their code."""
import traceback
from os import path as osp

from basicsr.archs import build_network as stock_build_network

from noiseda_basicsr.errors import InputError


def build_network(options):
    """BasicSR's build_network.

    Raises:
        InputError: The class fails with these arguments, as it does where one is text instead of a number.
    """
    try:
        return stock_build_network(options)
    except InputError:
        raise
    except Exception as error:
        given = ', '.join(f'{key}: {value}' for key, value in options.items() if key != 'type')
        raise InputError(f"{options['type']} cannot be built with {{{given}}} ({type(error).__name__}: {error}; "
                         f'{place(error)}).') from error


def place(error):
    """The last line of the user's own code on the way to an error, or of anybody's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames[1:] if '-packages' not in frame.filename]  # site-, and Debian's dist-
    last = (own or frames)[-1]
    return f'{osp.basename(last.filename)}, line {last.lineno}'
