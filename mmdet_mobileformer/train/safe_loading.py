"""Loading of checkpoints that runs no code, for everything that goes through mmengine (ours).

mmengine loads every checkpoint (resuming, `load_from`, `init_cfg`, DetInferencer) through the schemes
of its CheckpointLoader; these here take their place. SECURITY.md says what is guarded and what is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import torch
import torch.distributed as dist
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    _process_mmcls_checkpoint,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from mmengine.utils import apply_to

from ..checkpoint import read_checkpoint

#: What the sentences tell to do with a file of a known author.
FLAG = "--trust-checkpoint (trust_checkpoint(FILE) in Python)"
#: A config that says why it is not the one of the checkpoint: DetInferencer executes what it finds.
_REFUSAL = (
    "raise ValueError('the config inside a checkpoint is code, so it is not executed: name a "
    "config, as in DetInferencer(CONFIG, WEIGHTS)')\n"
)
_trusted: set[str] = set()


def trust_checkpoint(file: str | Path) -> None:
    """Let one file, or one URL, be loaded although it may run any code. Only for files you made.

    It can then also bring its config along for DetInferencer. A URL needs a hash all the same.
    """
    _trusted.add(_identity(str(file)))


def _identity(file: str) -> str:
    return file if "://" in file else os.path.realpath(os.path.expanduser(file))


def read_file(path: str | Path, map_location: Any = "cpu", trusted: bool | None = None) -> Any:
    """Read a local checkpoint: tensors and plain data only, unless the file is trusted.

    Args:
        path: A local file.
        map_location: As in torch.load.
        trusted: Whether it may run code; None asks what :func:`trust_checkpoint` was told.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or names a type that is not allowed; the sentence says which.
    """
    file = os.path.expanduser(path)
    if not os.path.isfile(file):
        raise FileNotFoundError(f"checkpoint {path} does not exist: give a local file")
    if trusted is None:
        trusted = _identity(str(path)) in _trusted
    try:
        if trusted:
            return torch.load(file, map_location=map_location, weights_only=False)
        if _is_tar(file):
            raise ValueError(  # torch < 2.6 reads these without its checks
                f"checkpoint {path} is a tar file of an old torch and is not loaded: convert it, or "
                f"give {FLAG} if you know who made it"
            )
        return _to_device(_with_classes(file, read_checkpoint(file)), map_location)
    except PermissionError as error:
        raise PermissionError(f"checkpoint {path} may not be read by you") from error
    except (ImportError, MemoryError, NameError):
        raise  # says nothing about the file
    except Exception as error:  # unpickling garbage raises nearly anything
        name = blocked_type(error.__cause__)
        if name is not None:
            raise ValueError(
                f"checkpoint {path} holds {name}, which is neither a tensor nor plain data and could "
                f"run code, so it is not loaded: give {FLAG} if you know who made it"
            ) from error
        ours = isinstance(error, ValueError) and str(error).startswith("checkpoint ")
        if ours and not isinstance(error.__cause__, UnpicklingError):
            raise
        raise ValueError(
            f"checkpoint {path} is not a PyTorch file or is damaged: fetch it again"
        ) from error


def _with_classes(file: str, checkpoint: Any) -> Any:
    """Of safetensors that name their classes (train/publish.py): as a checkpoint with `meta`.

    mmdet's init_detector and DetInferencer take the names from there.
    """
    if not file.endswith(".safetensors"):
        return checkpoint
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stream:
        names = (stream.metadata() or {}).get("classes")
    if names is None:
        return checkpoint
    return dict(
        state_dict=checkpoint, meta=dict(dataset_meta=dict(classes=tuple(json.loads(names))))
    )


def _is_tar(file: str) -> bool:
    try:
        with tarfile.open(file, "r:") as archive:
            return archive.next() is not None
    except (tarfile.TarError, EOFError):
        return False


def _to_device(checkpoint: Any, map_location: Any) -> Any:
    """Move the tensors of what was read onto the CPU; rules other than one device are left out."""
    if not isinstance(map_location, (str, torch.device)) or str(map_location) == "cpu":
        return checkpoint
    return apply_to(checkpoint, lambda x: isinstance(x, torch.Tensor), lambda x: x.to(map_location))


def blocked_type(error: BaseException | None) -> str | None:
    """The type or function that torch refused, out of its message; None for a damaged file."""
    if not isinstance(error, UnpicklingError):
        return None
    text = str(error)
    for pattern in (
        r"(attribute '\w+' of .*?);",
        r"GLOBAL ([\w.<>]+)",
        r"(?:global|class|function|type) [`'\"]?([A-Za-z_]\w*(?:\.[\w<>]+)+)",
    ):
        found = re.search(pattern, text)
        if found is not None:
            return found.group(1)
    return None


def without_code(checkpoint: Any) -> Any:
    """Take the configs out of a checkpoint, which mmengine would execute. Changes it in place."""
    if not isinstance(checkpoint, dict):
        return checkpoint
    meta, hub = checkpoint.get("meta"), checkpoint.get("message_hub")
    if isinstance(meta, dict):
        meta.pop("config", None)  # Runner.resume executes it
        if "cfg" in meta:
            meta["cfg"] = _REFUSAL
    info = hub.get("runtime_info") if isinstance(hub, dict) else None
    if isinstance(info, dict):
        info.pop("cfg", None)
    return checkpoint


def check_reference(reference: str, what: str = "checkpoint") -> None:
    """Stop before any long work at a reference that would not be loaded.

    Args:
        reference: A path, a URL, or a name such as torchvision://resnet50.
        what: What the sentence calls it.

    Raises:
        ValueError: if it is a URL without a hash, or of a kind that cannot be checked.
    """
    if "://" not in reference:
        return
    scheme = reference.partition("://")[0]
    if scheme in ("http", "https"):
        url_hash(reference, what)
    elif scheme not in ("modelzoo", "torchvision", "open-mmlab", "openmmlab", "mmcls"):
        raise ValueError(
            f"{what} {reference} cannot be checked against a hash, so it is not loaded: fetch it "
            "and give the local file"
        )


def url_hash(url: str, what: str = "checkpoint") -> tuple[str, str]:
    """The plain URL and the SHA-256, or its first digits, that it states.

    Stated as ``#sha256=...`` behind the URL, or in the file's name as torch and OpenMMLab do:
    ``NAME-0676ba61.pth``, eight digits or more.

    Raises:
        ValueError: if it states none.
    """
    plain, _, fragment = url.partition("#")
    stated = re.fullmatch(r"sha256=([0-9a-fA-F]{8,64})", fragment)
    if stated is None:
        stated = re.search(r"-([0-9a-f]{8,64})\.\w+$", urlparse(plain).path)
    if stated is None:
        raise ValueError(
            f"{what} {url} states no hash, so a changed file would go unnoticed: add "
            "#sha256=HASH to the URL, or fetch it and give the local file"
        )
    return plain, stated.group(1).lower()


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """A file, without configs in it. The names of these four are what mmengine's log shows."""
    check_reference(filename)
    checkpoint = read_file(filename, map_location)
    return checkpoint if _identity(filename) in _trusted else without_code(checkpoint)


def load_from_url(filename: str, map_location: Any = None) -> Any:
    """Fetch once per machine, check the hash at every use."""
    url, digits = url_hash(filename)
    name = f"{digits[:16]}-{os.path.basename(urlparse(url).path)}"
    file = os.path.join(torch.hub.get_dir(), "checkpoints", name)
    _, world_size = get_dist_info()
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0 or world_size == 1
    if first and not (os.path.isfile(file) and _sha256(file).startswith(digits)):
        os.makedirs(os.path.dirname(file), exist_ok=True)
        print_log(f"fetching {url}", logger="current")
        try:
            torch.hub.download_url_to_file(url, file, hash_prefix=digits, progress=False)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"checkpoint {url} cannot be fetched: {error}") from error
    if world_size > 1:
        dist.barrier()
    if not _sha256(file).startswith(digits):
        raise ValueError(f"checkpoint {url} was fetched to {file}, which has another hash")
    trusted = _identity(filename) in _trusted
    checkpoint = read_file(file, map_location, trusted=trusted)
    return checkpoint if trusted else without_code(checkpoint)


def _sha256(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def load_from_list(filename: str, map_location: Any = None) -> Any:
    """torchvision://, open-mmlab:// and mmcls://: mmengine's lists of URLs."""
    scheme, _, name = filename.partition("://")
    if scheme in ("torchvision", "modelzoo"):
        try:
            table = get_torchvision_models()
        except ImportError as error:
            raise ValueError(f"checkpoint {filename} needs the package torchvision") from error
    elif scheme == "mmcls":
        table = get_mmcls_models()
    else:
        table = get_external_models()
        name = get_deprecated_model_names().get(name, name)
    if name not in table:
        raise ValueError(f"checkpoint {filename}: {scheme} has no model {name!r}")
    target = str(table[name])
    if target.startswith(("http://", "https://")):
        checkpoint = load_from_url(target, map_location)
    else:
        from mmengine.runner.checkpoint import _get_mmengine_home

        checkpoint = load_from_local(os.path.join(_get_mmengine_home(), target), map_location)
    return _process_mmcls_checkpoint(checkpoint) if scheme == "mmcls" else checkpoint


def load_from_nowhere(filename: str, map_location: Any = None) -> Any:
    """Stores whose files cannot be checked against a hash."""
    check_reference(filename)
    raise ValueError(f"checkpoint {filename} cannot be loaded: give a local file")


def load_reference(reference: str) -> Any:
    """Load a path, URL or name as mmengine would, onto the CPU, without a line in the log.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if it is damaged, unsafe, without a hash or unknown.
    """
    return CheckpointLoader._get_checkpoint_loader(reference)(reference, "cpu")


def install() -> None:
    """Put these loaders in place of mmengine's. May be called any number of times."""
    for loader, prefixes in (
        (load_from_local, [""]),
        (load_from_url, ["http://", "https://"]),
        (
            load_from_list,
            ["modelzoo://", "torchvision://", "open-mmlab://", "openmmlab://", "mmcls://"],
        ),
        (load_from_nowhere, ["pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://"]),
    ):
        CheckpointLoader.register_scheme(prefixes, loader=loader, force=True)


install()
