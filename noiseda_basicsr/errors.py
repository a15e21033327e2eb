"""The one exception for mistakes a user can mend, and how commands tell it."""
import contextlib
import signal
import sys
import threading


class InputError(ValueError):
    """Bad input: a wrong option, a missing or corrupt file, a NaN loss.

    Its message names the file or option key and the remedy. Commands print it without a traceback and exit with
    status 1, the launchers of training and test with 2.
    """


@contextlib.contextmanager
def errors_in_one_line(interrupted='Interrupted.'):
    """Around a command's work: an :class:`InputError` ends the process with ``error:`` and its message, status 1.

    Ctrl-C ends it with the text ``interrupted``, status 130, and SIGTERM with status 143: no unfinished file is left.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = in_main_thread and signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    except InputError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        print(f'\n{interrupted}', file=sys.stderr)
        sys.exit(130)
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
