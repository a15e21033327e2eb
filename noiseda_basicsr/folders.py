"""The folder of a training: held by one at a time, and not lost to one that cannot begin.

BasicSR puts that of an earlier run aside before it knows whether the new one can begin, or whether the earlier one has
ended.
"""
import os
import shutil
from os import path as osp

from basicsr.utils import get_root_logger
from basicsr.utils.misc import get_time_str

from noiseda_basicsr.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = '.lock'
OF_A_START = ('.log', '.yml', '.yaml', LOCK)  # endings of what is written before there is a result
EVENTS = 'events.out.tfevents'  # how TensorBoard's files begin


held = []  # locks of this process, to its end


def hold(folder):
    """Keep other processes from writing into a folder; the system lets go of it when this one ends, however it does.

    Returns:
        file: To be kept open as long as the folder is held.

    Raises:
        InputError: Another process holds it.
    """
    file = open(osp.join(folder, LOCK), 'a')  # noqa: SIM115
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # flock's would be held by orphaned workers, too
    except (BlockingIOError, PermissionError) as error:
        raise InputError(f'{folder}: another process is at work there. Wait for it, stop it, or choose another name.') \
            from error
    except OSError:
        pass  # a file system without locks
    return file


class FreshFolders:
    """Folders made for a run, and where those of the same name went."""

    def __init__(self):
        self.made = {}  # path -> (which folder it is, where what it held before was put aside or None)

    def make(self, path):
        """basicsr.utils.misc.mkdir_and_rename that remembers."""
        aside = None
        if osp.exists(path):
            if osp.exists(osp.join(path, LOCK)):
                hold(path).close()
            aside = f'{path}_archived_{get_time_str()}'
            while osp.exists(aside):  # of the same second
                aside += '_'
            print(f'{path} exists already; it is now {aside}.', flush=True)
            os.rename(path, aside)
        os.makedirs(path)
        held.append(hold(path))
        self.made[path] = os.stat(path).st_ino, aside

    def take_back(self):
        """After an error: where nothing has come of the run, all is as it was before.

        Another run may have put these folders aside in turn, and be at work there; then nothing is touched.
        """
        if any(not osp.isdir(path) or os.stat(path).st_ino != number or holds_a_result(path)
               for path, (number, _) in self.made.items()):
            return
        for handler in get_root_logger().handlers:
            handler.close()  # the log is one of the files
        for path, (_, aside) in self.made.items():
            shutil.rmtree(path, ignore_errors=True)
            if aside and not osp.exists(path):
                os.rename(aside, path)
                print(f'{path} is again what it was.', flush=True)


def holds_a_result(folder):
    names = [name for _, _, files in os.walk(folder) for name in files]
    return any(not name.endswith(OF_A_START) and not name.startswith(EVENTS) for name in names)
