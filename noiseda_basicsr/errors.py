"""The one exception for mistakes a user can mend, and how commands tell it."""
import contextlib
import sys


class InputError(ValueError):
    """Bad input: a wrong option, a missing or corrupt file, a NaN loss.

    Its message names the file or option key and the remedy. Commands print it without a traceback and exit with
    status 1, the launchers of training and test with 2.
    """


@contextlib.contextmanager
def errors_in_one_line():
    """Around a command's work: an :class:`InputError` ends the process with ``error:`` and its message, status 1.

    So does Ctrl-C, with "Interrupted."
    """
    try:
        yield
    except InputError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('\nInterrupted.')
