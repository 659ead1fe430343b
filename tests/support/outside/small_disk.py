"""A disk of a few megabytes that can be filled, in a mount namespace of its own: nobody else sees it."""

import os
import shutil
import subprocess
from contextlib import contextmanager

from raycompress.results.folder import ExperimentFolder
from raycompress.results.record import SearchRecord
from tests.support.launching import Launched, command

ENTERS = shutil.which("unshare") and shutil.which("nsenter") and os.geteuid() == 0


class SmallDisk:
    """The disk, mounted at ``folder / "disk"``; what is run through it sees it there."""

    def __init__(self, folder, pid):
        self.folder = folder
        self._pid = pid
        self.seen = type(folder)(f"/proc/{pid}/root{folder}/disk")
        """The same for who is not in the namespace."""

    def record(self):
        """Read the one experiment in ``disk/results``; `Record.open` would resolve the way to it."""
        (folder,) = (self.seen / "results").iterdir()
        return SearchRecord(ExperimentFolder(folder))

    def raycompress(self, *words):
        inside = ["nsenter", f"--mount=/proc/{self._pid}/ns/mnt", f"--wdns={self.folder}", *command(*words)]
        environment = {**os.environ, "COLUMNS": "80"}
        done = subprocess.run(
            inside, cwd=self.folder, capture_output=True, text=True, timeout=240, env=environment, check=False
        )
        assert "Traceback" not in done.stderr
        return Launched(done.returncode, done.stdout, done.stderr, self.seen)


def can_mount():
    """Tell whether this user, in this container, may mount something in a namespace."""
    if not ENTERS:
        return False
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(folder, size, options=""):
    """Mount one of `size` below `folder`, and let it go."""
    (folder / "disk").mkdir()
    script = 'mount -t tmpfs -o "$1" none "$2" && echo mounted && exec sleep infinity'
    words = ["unshare", "--mount", "sh", "-c", script, "sh", f"size={size}{options}", str(folder / "disk")]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "mounted\n"
        yield SmallDisk(folder, holder.pid)
    finally:
        holder.kill()
        holder.communicate()
