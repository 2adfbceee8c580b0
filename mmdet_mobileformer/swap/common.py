"""What the modules of this folder share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class SwapRefusedError(ValueError):
    """A detector whose backbone cannot be exchanged; the message is one sentence with the reason."""


def dicts_in(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every dict in a config with the keys that lead to it, itself included."""
    if isinstance(value, Mapping):
        yield path, value
        for key in list(value):
            yield from dicts_in(value[key], (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from dicts_in(item, (*path, str(index)))


def numbers(values: Sequence[int]) -> str:
    """``(4, 8)`` as ``'4, 8'``."""
    return ", ".join(map(str, values))


def one_line(error: BaseException) -> str:
    """An exception's type and message in one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
