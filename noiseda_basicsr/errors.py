"""The one exception for mistakes a user can mend."""


class InputError(ValueError):
    """Bad input: a wrong option, a missing or corrupt file, a NaN loss.

    Its message names the file or option key and the remedy. The launchers print it without a traceback and exit
    with status 2.
    """
