"""Writes cpio archives, which the kernel unpacks at boot."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType


class Cpio:
    """Writes a cpio archive in the newc format: a header of hexadecimal numbers, the name and the contents, each
    padded to 4 bytes. Source: Documentation/driver-api/early-userspace/buffer-format.rst."""

    def __init__(self, image: Path) -> None:
        self._file = image.open("wb")
        self._names: set[str] = set()

    def __enter__(self) -> "Cpio":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entry("TRAILER!!!", 0)
        self._file.close()

    def add(self, name: str, source: Path) -> None:
        """A file's contents, through symbolic links. The time stays: compiled Python files are compared by it."""
        status = source.stat()
        mode = stat.S_IFREG | (0o755 if status.st_mode & stat.S_IXUSR else 0o644)
        self._entry(name, mode, source.read_bytes(), int(status.st_mtime))

    def add_tree(self, name: str, folder: Path, belongs: Callable[[str], bool]) -> None:
        """The files of a folder that belong to it in the guest: belongs("/path/in/it")."""
        for path in sorted(folder.rglob("*")):
            inside = f"/{path.relative_to(folder)}"
            if belongs(inside) and path.is_file():
                self.add(f"{name}{inside}", path)

    def add_text(self, name: str, text: str, executable: bool = False) -> None:
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), text.encode())

    def add_link(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def add_folder(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755)

    def _entry(self, name: str, mode: int, data: bytes = b"", mtime: int = 0) -> None:
        name = name.lstrip("/")
        if name in self._names:
            return
        if parent := os.path.dirname(name):
            self.add_folder(parent)
        self._names.add(name)
        encoded = os.fsencode(name) + b"\0"
        # inode, mode, uid, gid, links, time, size, device and its minor, special file's and its minor, name, check
        fields = (len(self._names), mode, 0, 0, 1, mtime, len(data), 0, 0, 0, 0, len(encoded), 0)
        self._write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
        self._write(data)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.write(bytes(-self._file.tell() % 4))
