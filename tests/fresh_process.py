"""A new Python process, for what changes the whole process it is called in."""

from __future__ import annotations

import subprocess
import sys


def printed(program: str, *arguments: str) -> list[str]:
    """The words that a program prints in a process of its own."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
