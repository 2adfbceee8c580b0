"""Bad input ends a tool with one sentence; a defect keeps its traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from .launch import is_first_process

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn errors that this package raised on purpose into `SystemExit` with their message.

    These are ValueError and OSError (FileNotFoundError ...) whose `raise` stands in a file of
    this package, also where mmengine's registry caught and wrapped them. All others pass through
    with their traceback. Of several processes only the first prints.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        ours = _ours(error)
        if ours is None:
            raise
        if is_first_process():
            print(f"{Path(sys.argv[0]).name}: {ours}", file=sys.stderr)
        raise SystemExit(1) from None


def _ours(error: BaseException) -> BaseException | None:
    """The first error of the chain that was raised in this package."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (ValueError, OSError)) and _raised_in(seen.__traceback__):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _raised_in(traceback: TracebackType | None) -> bool:
    file = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        traceback = traceback.tb_next
    return os.path.abspath(file).startswith(_PACKAGE)
