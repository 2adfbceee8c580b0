"""Swapping the backbone of every config that mmdet ships, and checking what comes out.

Many configs differ only in the backbone, the schedule or the data, so that their rewritten models
are the same: each distinct model is checked once, in a process of its own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mmdet
from mmengine.config import Config

from ..pairing import check_pairing
from .channels import necks_of
from .check import CheckError, compare, count_config
from .common import SwapRefusedError, one_line
from .config_file import config_text, read_base, same_config
from .rewrite import Swap, rewrite

#: Folders of `.mim/configs` with parts of configs only.
_PARTS = ("_base_", "common")
#: Height and width at which the cost before and after is counted, in pixels.
SHAPE = (256, 256)
#: Packages that single detectors of mmdet need (PAA and LAD; BoxInst; ConvNeXt and timm).
EXTRAS = ("scikit-learn", "scikit-image", "mmpretrain")
#: Seconds after which a config is given up.
TIMEOUT = 1800


def config_root() -> Path:
    """Where mmdet keeps the configs that it ships."""
    return Path(mmdet.__file__).parent / ".mim" / "configs"


def shipped_configs(families: Sequence[str] = ()) -> list[str]:
    """Every shipped config, relative to :func:`config_root`; ``families`` are its folders."""
    root = config_root()
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return [
        name
        for name in names
        if (family := name.split("/")[0]) not in _PARTS and (not families or family in families)
    ]


def signature(model: dict[str, Any]) -> dict[str, str]:
    """Names of detector, necks and heads of a model's config.

    A semi-supervised detector is named with the one inside. Equal heads in a row are counted.
    """
    inner = model.get("detector")
    detector: dict[str, Any] = model
    name = str(model.get("type"))
    if isinstance(inner, dict) and "backbone" not in model:
        detector, name = inner, f"{name}({inner.get('type')})"
    necks = [str(neck.get("type")) for neck in necks_of(detector)]
    return dict(
        detector=name,
        necks=" + ".join(necks) or "none",
        heads=", ".join(_heads(detector)) or "none",
    )


def _heads(part: dict[str, Any]) -> list[str]:
    found = []
    for key in sorted(part):
        value = part[key]
        if not key.endswith(("head", "extractor")) or key.startswith("teacher"):
            continue
        items = [item for item in (value if isinstance(value, list) else [value]) if item]
        kinds = [str(item.get("type")) for item in items if isinstance(item, dict)]
        if not kinds:
            continue
        inside = _heads(items[0])
        count = f"{len(kinds)} x " if len(kinds) > 1 else ""
        found.append(count + kinds[0] + (f"({', '.join(inside)})" if inside else ""))
    return found


def rewrite_one(name: str, arch: str) -> dict[str, Any]:
    """Rewrite one config, write the differences, read them back.

    Returns:
        ``status`` ('rewritten', 'refused', 'no model' or 'unreadable'), the signature, and the
        ``reason`` or the strides and a hash of the new model.
    """
    try:
        base = read_base(str(config_root() / name))
    except ValueError as error:
        reason = str(error).rpartition("cannot be read: ")[2].replace(f"{config_root()}/", "")
        return dict(status="unreadable", reason=reason)
    model = base.to_dict().get("model")
    if not isinstance(model, dict):
        return dict(status="no model")
    result: dict[str, Any] = dict(signature(model))
    try:
        swap = rewrite(base, arch)
    except SwapRefusedError as error:
        return dict(result, status="refused", reason=str(error))
    _read_back(name, base, swap)
    text = json.dumps(swap.config["model"], sort_keys=True, default=str)
    return dict(
        result,
        status="rewritten",
        strides=list(swap.new.strides),
        old=str(model.get("backbone", {}).get("type")),
        model=hashlib.sha256(text.encode()).hexdigest()[:16],
    )


def _read_back(name: str, base: Config, swap: Swap) -> None:
    """The file of differences must give the same config again, and its parts must fit."""
    out = Path(f"swapped-{os.getpid()}.py").resolve()
    path = config_root() / name
    text = config_text(str(path), out, base.to_dict(), swap.config, [])
    # By its path: mmengine reads all of mmdet's metafiles to look up `mmdet::`, for seconds.
    text = text.replace("mmdet::", f"{config_root()}/", 1)
    try:
        out.write_text(text)
        cfg = Config.fromfile(str(out), import_custom_modules=False)
    finally:
        out.unlink(missing_ok=True)
    if not same_config(cfg.to_dict(), swap.config):
        raise AssertionError("the written differences do not give the rewritten config")
    check_pairing(cfg)


def check_one(name: str, arch: str) -> dict[str, Any]:
    """Check one config on Mobile-Former; the fields of the verdict and of the check."""
    base = read_base(str(config_root() / name))
    verdict = compare(base, Config(rewrite(base, arch).config))
    result: dict[str, Any] = dict(status=verdict.status)
    if verdict.check is None:
        return dict(result, reason=verdict.reason)
    return dict(result, **asdict(verdict.check))


def count_one(name: str, arch: str) -> dict[str, Any]:
    """Parameters and multiply-adds of one config before and after, at :data:`SHAPE`."""
    base = read_base(str(config_root() / name))
    result: dict[str, Any] = {}
    for when, cfg in (("before", base), ("after", Config(rewrite(base, arch).config))):
        try:
            cost = count_config(cfg, SHAPE)
        except CheckError as error:
            result[when] = dict(reason=str(error))
            continue
        result[when] = dict(params=cost.total_params, madds=cost.total_madds)
    return result


def run_zoo(
    arch: str,
    file: Path,
    families: Sequence[str] = (),
    again: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Do all of the above for all configs; what ``file`` already holds is not done again.

    Args:
        arch: The Mobile-Former.
        file: JSON with the results so far, written after every step.
        families: Folders to restrict the run to; all if empty.
        again: Whether to do again what did not work.
        say: Takes one line per step.

    Raises:
        ValueError: If ``file`` holds results of another arch.
    """
    results = load(file, arch)
    if again:
        for section, fine in (("configs", ("rewritten", "no model")), ("models", ("works",))):
            entries = results[section]
            results[section] = {k: v for k, v in entries.items() if v["status"] in fine}
    for name in shipped_configs(families):
        # In this process, since what the backbones give is remembered; it runs no heads.
        _do(results, "configs", name, rewrite_one, (name, arch), file, say, isolated=False)
    for key, name in distinct_models(results):
        _do(results, "models", key, check_one, (name, arch), file, say)
    for name in representatives(results):
        _do(results, "costs", name, count_one, (name, arch), file, say)


def load(file: Path, arch: str) -> dict[str, Any]:
    """The results so far."""
    if not file.is_file():
        return dict(
            arch=arch,
            mmdet=mmdet.__version__,
            extras={name: _version(name) for name in EXTRAS},
            configs={},
            models={},
            costs={},
        )
    results: dict[str, Any] = json.loads(file.read_text())
    if results["arch"] != arch:
        raise ValueError(
            f"{file} holds results of {results['arch']}, not of {arch}: name another file"
        )
    return results


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def distinct_models(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each distinct rewritten model once: its hash, and the config to build it from."""
    seen = set()
    for name, entry in results["configs"].items():
        if entry["status"] == "rewritten" and entry["model"] not in seen:
            seen.add(entry["model"])
            yield entry["model"], name


def rows(results: dict[str, Any]) -> dict[tuple[str, str, str], list[str]]:
    """Configs with a signature, grouped by it: what differs only in the backbone is one row."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, entry in results["configs"].items():
        if "detector" in entry:
            key = (entry["detector"], entry["necks"], entry["heads"])
            found.setdefault(key, []).append(name)
    return dict(sorted(found.items()))


def representatives(results: dict[str, Any]) -> Iterator[str]:
    """One rewritten config per row whose cost is counted: with ResNet-50 where there is one."""
    for names in rows(results).values():
        done = [name for name in names if results["configs"][name]["status"] == "rewritten"]
        if done:
            yield min(done, key=lambda name: ("r50" not in name, len(name), name))


def _do(
    results: dict[str, Any],
    section: str,
    key: str,
    function: Callable[..., dict[str, Any]],
    args: tuple[Any, ...],
    file: Path,
    say: Callable[[str], None],
    isolated: bool = True,
) -> None:
    """One step, in a process of its own if ``isolated``, unless its result is there."""
    if key in results[section]:
        return
    start = time.monotonic()
    if isolated:
        result = _in_process(function, args, file.with_suffix(".log"))
    else:
        try:
            result = function(*args)
        except Exception as error:  # whatever a config leads to
            result = dict(status="fails", reason=one_line(error))
    result["seconds"] = round(time.monotonic() - start, 1)
    result.setdefault("config", args[0])
    results[section][key] = result
    partial = file.with_suffix(".partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(results, indent=1))
    os.replace(partial, file)
    what = f"{result.get('status', 'counted')} {result.get('reason', '')}".strip()
    say(f"{section} {args[0]}: {what} ({result['seconds']} s)")


def _in_process(
    function: Callable[..., dict[str, Any]], args: tuple[Any, ...], log: Path
) -> dict[str, Any]:
    # Forked: a fresh interpreter would import mmdet anew each time, which takes ten seconds.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, args, log))
    process.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT):
            return dict(status="fails", reason=f"no result after {TIMEOUT} s")
        result: dict[str, Any] = receiver.recv()
        return result
    except EOFError:
        return dict(status="fails", reason="the process ended without a result (memory?)")
    finally:
        process.kill()  # its result has arrived, or never will
        process.join()


def _call(
    sender: Any, function: Callable[..., dict[str, Any]], args: tuple[Any, ...], log: Path
) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            sender.send(function(*args))
        except Exception as error:  # reported as a failure of this config
            traceback.print_exc()
            sender.send(dict(status="fails", reason=one_line(error)))
