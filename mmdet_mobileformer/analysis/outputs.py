"""Where results go: never over what is there."""

from __future__ import annotations

from pathlib import Path


def check_new(path: Path, flag: str) -> None:
    """Stop before the work at a result that exists already, or cannot be written.

    Args:
        path: A file or folder that the tool will make.
        flag: What the command line calls it.

    Raises:
        FileExistsError: If it is there.
        NotADirectoryError: If something above it is a file.
    """
    if path.exists():
        raise FileExistsError(f"{flag} {path} exists already: give a new name, or move it away")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise NotADirectoryError(f"{flag} {path} cannot be made: {parent} is a file")
