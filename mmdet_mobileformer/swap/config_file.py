"""Reading a base config and writing a config that states only its differences from it."""

from __future__ import annotations

import copy
import importlib.util
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from .common import one_line


def find_base(base: str) -> Path:
    """The file of a base config: ``package::config`` lies in the package's ``.mim/configs``.

    Raises:
        FileNotFoundError: If there is no such package or file.
    """
    package, separator, name = base.partition("::")
    if not separator:
        path = Path(base).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"config {base} does not exist: give the path of a config file, or "
                "mmdet::FAMILY/NAME.py"
            )
        return path.resolve()
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"config {base}: there is no package {package!r}")
    path = Path(spec.origin).parent / ".mim" / "configs" / name
    if not path.is_file():
        raise FileNotFoundError(f"config {base} does not exist: there is no file {path}")
    return path


def read_base(base: str) -> Config:
    """Read a config, and import what it asks for where that is installed.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it cannot be read.
    """
    path = find_base(base)
    try:
        cfg = Config.fromfile(str(path), import_custom_modules=False)
    except Exception as error:  # a config is Python: anything may be raised
        raise ValueError(f"config {base} cannot be read: {one_line(error)}") from error
    imports = cfg.get("custom_imports") or {}
    if imports.get("imports"):
        # What only the old backbone needs may be absent; what the rest needs is missed when built.
        import_modules_from_strings(list(imports["imports"]), allow_failed_imports=True)
    return cfg


def differences(base: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What a child config must state so that mmengine merges it with ``base`` to ``new``.

    A dict that loses a key or changes its type is stated whole, with ``_delete_=True``; so is a
    changed list, which mmengine never merges.
    """
    result: dict[str, Any] = {}
    for key, value in new.items():
        if key in base and type(base[key]) is type(value) and base[key] == value:
            continue
        before = base.get(key)
        if not isinstance(value, dict) or key not in base:
            result[key] = value
        elif not isinstance(before, dict) or _replaces(before, value):
            result[key] = {"_delete_": True, **value}
        else:
            result[key] = differences(before, value)
    return copy.deepcopy(result)


def _replaces(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return any(key not in after for key in before) or before.get("type") != after.get("type")


def config_text(
    base: str, out: Path, base_config: dict[str, Any], new: dict[str, Any], notes: Sequence[str]
) -> str:
    """The text of a config that inherits from ``base`` and is ``new``.

    Args:
        base: As the user named it.
        out: Where the text will be written; a local base is named relative to its folder.
        base_config: The base's content.
        new: The content after the change.
        notes: Sentences for the comment on top.
    """
    lines = textwrap.wrap(notes[0], 98) if notes else []
    for note in notes[1:]:
        lines += textwrap.wrap(f"- {note}", 98, subsequent_indent="  ", break_long_words=False)
    head = "".join(f"# {line}\n" for line in lines)
    if is_pure_python(find_base(base)):
        whole = "# Complete in itself: mmengine lets no `_base_` name a config with read_base.\n"
        return head + whole + _assignments(new)
    return f"{head}_base_ = {base_of(base, out)!r}\n\n{_assignments(differences(base_config, new))}"


def _assignments(config: dict[str, Any]) -> str:
    return "".join(f"{key} = {_code(value, 0, len(key) + 3)}\n" for key, value in config.items())


def _code(value: Any, indent: int, used: int = 0) -> str:
    """Python code of a config's value, on one line where it fits into 100 columns.

    ``pretty_text`` of mmengine's Config sorts the keys and gives every number of a list its line.
    """
    flat = _flat(value)
    if indent + used + len(flat) <= 96 or not isinstance(value, (dict, list, tuple)) or not value:
        return flat
    inner = " " * (indent + 4)
    if isinstance(value, dict):
        named = all(isinstance(key, str) and key.isidentifier() for key in value)
        names = [f"{key}=" if named else f"{key!r}: " for key in value]
        items = [n + _code(v, indent + 4, len(n)) for n, v in zip(names, value.values())]
        opening, closing = ("dict(", ")") if named else ("{", "}")
    else:
        items = [_code(item, indent + 4) for item in value]
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
    return f"{opening}\n{inner}" + f",\n{inner}".join(items) + f",\n{' ' * indent}{closing}"


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            return f"dict({', '.join(f'{k}={_flat(v)}' for k, v in value.items())})"
        return "{" + ", ".join(f"{k!r}: {_flat(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_flat, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def base_of(base: str, out: Path) -> str:
    """How a config at ``out`` names its base: by package, or relative to its own folder."""
    if "::" in base:
        return base
    path = find_base(base)
    for parent in path.parents:
        if parent.name == "configs" and parent.parent.name == ".mim":
            return f"{parent.parents[1].name}::{path.relative_to(parent).as_posix()}"
    return Path(os.path.relpath(path, out.expanduser().resolve().parent)).as_posix()


def is_pure_python(path: Path) -> bool:
    """Whether a config is one of mmengine's new style, with ``read_base`` and imported classes."""
    return bool(Config._is_lazy_import(str(path)))


def check_out(out: Path, base: str, overwrite: bool) -> None:
    """Stop before long work if ``out`` cannot be written.

    Raises:
        FileExistsError: If it exists and ``overwrite`` is False, or it is the base itself.
        ValueError: If its name does not end in ``.py``.
    """
    if out.suffix != ".py":
        raise ValueError(f"OUT {out} must end in .py")
    if out.exists():
        if out.resolve() == find_base(base).resolve():
            raise FileExistsError(f"{out} is the base config itself: name another file")
        if not overwrite:
            raise FileExistsError(f"{out} exists: name another file or give --overwrite")


def same_config(one: Any, other: Any) -> bool:
    """Whether two configs are the same but for ``_scope_``, which ``package::`` look-ups add."""
    return bool(_without_scope(one) == _without_scope(other))


def _without_scope(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_scope(v) for k, v in value.items() if k != "_scope_"}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_scope(item) for item in value)
    return value
