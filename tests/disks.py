"""Small disks to fill up, where mounting them is allowed, and file systems that refuse things."""

import contextlib
import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder, size):
    """Mount a memory disk, or skip the test where that is not allowed."""
    folder.mkdir()
    if os.name != "posix" or os.geteuid() or not shutil.which("mount"):
        pytest.skip("mounting a small disk needs root")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs CAP_SYS_ADMIN, in a container `--privileged`")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder, option):
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def refuse_permissions(monkeypatch):
    """Have the file system keep no permissions, as a share or a bucket that is mounted may."""

    def refuse(path, mode, **settings):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(os, "chmod", refuse)


def keep_folders(monkeypatch, named):
    """Have folders of such names stay when they are deleted.

    As on NFS, where a deleted file that another process has open stays under another name.
    """
    remove = os.rmdir

    def refuse(path, **settings):
        if named(Path(path).name):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        remove(path, **settings)

    monkeypatch.setattr(os, "rmdir", refuse)
