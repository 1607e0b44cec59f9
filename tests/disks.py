"""File systems that refuse things."""

import errno
import os
from pathlib import Path


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
