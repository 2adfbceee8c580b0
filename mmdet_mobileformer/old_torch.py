"""Reading checkpoints safely where torch < 2.4: its weights_only has no list to add types to.

A pickle reader for `torch.load(pickle_module=...)` that finds only what the list names, and sets
the state of instances of the listed types alone.
"""

from __future__ import annotations

import codecs
import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import _weights_only_unpickler

# The interpreter's own reader in Python: the one in C has no hook for BUILD.
_Reader: Any = pickle._Unpickler


def load(file: str | Path, map_location: Any, allowed: list[Any]) -> Any:
    """torch.load that finds what torch's own weights_only would find, and `allowed`.

    Args:
        file: A local file.
        map_location: As in torch.load.
        allowed: Functions and classes, found by their ``__module__`` and ``__qualname__``.

    Raises:
        UnpicklingError: If the file asks for anything else.
    """
    table: dict[str, Any] = dict(_weights_only_unpickler._get_allowed_globals())
    # Plain data that torch 2.0's own list lacks and later ones have: numpy writes bytes by encode.
    plain = {"_codecs.encode": codecs.encode, "builtins.set": set, "collections.Counter": Counter}
    table.update(plain)
    table.update({f"{item.__module__}.{item.__qualname__}": item for item in allowed})
    types = tuple(item for item in allowed if isinstance(item, type))
    buildable = (torch.Tensor, OrderedDict, *types)

    class Unpickler(_Reader):
        def find_class(self, module: str, name: str) -> Any:
            # torch.save writes protocol 2, with the module names of Python 2.
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            full = f"{module}.{name}"
            if full not in table:
                raise pickle.UnpicklingError(f"Unsupported global: {full} is not allowed")
            return table[full]

        def load_build(self) -> None:
            # On a class or a function, BUILD would overwrite attributes for the whole process.
            instance = self.stack[-2]
            if not isinstance(instance, buildable):
                raise pickle.UnpicklingError(f"a state for {type(instance)} is not allowed")
            super().load_build()

        dispatch = {**_Reader.dispatch, pickle.BUILD[0]: load_build}

    def read(stream: Any, **kwargs: Any) -> Any:
        return Unpickler(stream, **kwargs).load()

    module: Any = SimpleNamespace(__name__="safe_pickle", Unpickler=Unpickler, load=read)
    return torch.load(file, map_location=map_location, pickle_module=module, weights_only=False)
