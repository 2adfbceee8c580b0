"""What a page of the docs asks its reader to run, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: How a command in running text or in a table begins.
INLINE = re.compile(r"`((?:python |make |source |tools/\w+\.sh )[^`]+)`")


class Block(NamedTuple):
    """One piece to run.

    Attributes:
        line: Its first line in the page.
        kind: 'bash', 'python' (a program) or 'file' (a config, its name in the first comment).
        text: Without the fence; a file's text with its first comment.
    """

    line: int
    kind: str
    text: str

    @property
    def file(self) -> str:
        """Name of a 'file' block."""
        return self.text.splitlines()[0].removeprefix("# ")


def pages() -> list[Path]:
    """README and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: str) -> list[Block]:
    """Fenced bash and python blocks, and commands in code spans, in their order."""
    found: list[Block] = []
    language, start, fenced = None, 0, []
    for number, line in enumerate(page.splitlines(), 1):
        if line.lstrip().startswith("```"):
            if language is None:
                language, start, fenced = line.strip().removeprefix("```"), number + 1, []
            else:
                if language in ("bash", "python"):
                    found.append(_block(start, language, "\n".join(fenced) + "\n"))
                language = None
        elif language is not None:
            fenced.append(line)
        else:
            found += [Block(number, "bash", m[1] + "\n") for m in INLINE.finditer(line)]
    return found


def _block(line: int, language: str, text: str) -> Block:
    is_file = language == "python" and re.match(r"# \w+\.py\n", text)
    return Block(line, "file" if is_file else language, text)
