"""A trained model as files to ship: half-precision weights, config, log, hash, model card (ours).

The folder holds what a user needs to detect, and nothing of the training but its log. Weights are in
safetensors, which cannot hold code, with the names of the classes inside; they load as any checkpoint of
ours does (mmdet's DetInferencer, tools/test.py, ``load_from``), into float32.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from ..checkpoint import read_checkpoint
from ..data.classes import config_classes
from ..data.redirect import data_sets_of, redirect_data_root
from ..version import __version__
from .build import read_config
from .guards import state_dict_of
from .inference import inference_model, inference_state

#: Largest weights that belong into a repository, in bytes.
MOST_BYTES = 8_000_000
#: Relative error that rounding to half precision may make in a tensor; others stay in float32.
MOST_ERROR = 1e-3
#: What a config for inference and testing consists of.
_KEPT = (
    "custom_imports", "default_scope", "env_cfg", "model", "test_cfg", "test_dataloader",
    "test_evaluator", "vis_backends", "visualizer",
)
#: What the file of the card has to say, and what for.
CARD = {
    "title": "name of the model",
    "summary": "what it detects, in a sentence",
    "data": "what it was trained on, how many pictures, where from",
    "data_licences": "licences of pictures and annotations",
    "training": "recipe, hours, machine",
    "scores": "numbers by name, such as {'AP on val': 0.12}",
    "score_command": "the command that measured them",
    "can": "list of what it can do",
    "cannot": "list of what it cannot",
    "licence": "licence of the weights",
}


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes:
        folder: The new folder.
        weights: The safetensors file.
        sha256: Its hash.
        size: Its bytes.
        params: Number of parameters.
        in_float32: Tensors that did not bear rounding.
    """

    folder: Path
    weights: Path
    sha256: str
    size: int
    params: int
    in_float32: tuple[str, ...]


def round_weights(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights in half precision, but for tensors that would overflow or vanish.

    Args:
        state: Weights; counters of batches, which inference does not read, are left out.

    Returns:
        The rounded weights, and the names of those in float32.

    Raises:
        ValueError: If one is NaN or infinite.
    """
    rounded, kept = {}, []
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if not value.is_floating_point():
            rounded[name] = value.clone()
            continue
        if not torch.isfinite(value).all():
            raise ValueError(f"the checkpoint holds NaN or infinity in {name}: it is of no use")
        full = value.detach().float()
        half = full.half()
        error = (half.float() - full).norm()
        # A variance that becomes zero is lost even where the others outweigh it.
        vanished = ((half == 0) & (full != 0)).any() and name.endswith("running_var")
        if not torch.isfinite(half).all() or error > MOST_ERROR * full.norm() or vanished:
            rounded[name] = full.clone()
            kept.append(name)
        else:
            rounded[name] = half
    return rounded, tuple(kept)


def publish(
    config: str | Path,
    checkpoint: str | Path,
    card: str | Path,
    folder: str | Path,
    data_root: str | None = None,
    log: str | Path | None = None,
    most_bytes: int = MOST_BYTES,
) -> Published:
    """Write ``NAME-HASH.safetensors``, ``NAME.py``, ``README.md``, ``SHA256SUMS`` and the log.

    Args:
        config: The config of the training.
        checkpoint: Its checkpoint, safe to load; with EMA the averaged weights, as mmengine saves.
        card: JSON file with the entries of :data:`CARD`.
        folder: A new folder; its name becomes NAME.
        data_root: Root of the data in the config that is shipped; None leaves the config's.
        log: Log of the training, ``vis_data/scalars.json``, which is copied.
        most_bytes: Largest weights.

    Raises:
        FileExistsError: If the folder exists.
        FileNotFoundError: If a file does not.
        ValueError: If the card lacks an entry, the checkpoint does not fit the config, classes are
            unknown, or the weights are too large.
    """
    out = Path(folder)
    if out.exists():
        raise FileExistsError(f"{out} exists and is kept: give a new folder")
    entries = read_card(card)
    if log is not None and not Path(log).is_file():
        raise FileNotFoundError(f"log {log} does not exist: give a vis_data/scalars.json")
    cfg = shipped_config(read_config(str(config)), data_root)
    content = read_checkpoint(checkpoint)
    state = inference_state(state_dict_of(content))
    params = _check_fit(cfg.model, state, checkpoint)
    classes = _classes(content, cfg, checkpoint)
    rounded, in_float32 = round_weights(state)
    metadata = dict(
        classes=json.dumps(classes), source_sha256=_sha256(Path(checkpoint)), version=__version__
    )
    partial = out.with_name(f".{os.getpid()}-partial-{out.name}")
    try:
        partial.mkdir(parents=True)
        weights = _write_weights(rounded, metadata, partial, out.name)
        size = weights.stat().st_size
        if size > most_bytes:
            raise ValueError(
                f"the weights take {size:,} bytes, more than {most_bytes:,}: ship a smaller model, "
                "or allow more with --most-bytes"
            )
        digest = _sha256(weights)
        cfg.dump(str(partial / f"{out.name}.py"))
        if log is not None:
            shutil.copyfile(log, partial / "training_log.jsonl")
        made = Published(out, out / weights.name, digest, size, params, in_float32)
        (partial / "README.md").write_text(card_text(entries, made, classes), encoding="utf-8")
        sums = [f"{_sha256(file)}  {file.name}" for file in sorted(partial.iterdir())]
        (partial / "SHA256SUMS").write_text("\n".join(sums) + "\n")
        if out.exists():
            raise FileExistsError(f"{out} exists and is kept: give a new folder")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


def read_card(file: str | Path) -> dict[str, Any]:
    """The entries of a model card.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON object, or entries are missing or empty.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"card {path} does not exist: write a JSON file with {', '.join(CARD)}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"card {path} is not JSON ({error})") from error
    entries = entries if isinstance(entries, dict) else {}
    absent = [f"{key} ({what})" for key, what in CARD.items() if not entries.get(key)]
    if absent:
        raise ValueError(f"card {path} lacks {'; '.join(absent)}")
    for key, kind, name in (("scores", dict, "an object"), ("can", list, "a list"),
                            ("cannot", list, "a list")):
        if not isinstance(entries[key], kind):
            raise ValueError(f"card {path}: {key} must be {name}")
    return dict(entries)


def shipped_config(cfg: Config, data_root: str | None = None) -> Config:
    """What a config says about inference and tests, without what only training uses."""
    kept = {key: cfg[key] for key in _KEPT if key in cfg}
    backends = [dict(type="LocalVisBackend")]
    kept.setdefault(
        "visualizer", dict(type="DetLocalVisualizer", vis_backends=backends, name="visualizer")
    )
    shipped = Config(dict(kept))
    shipped.model = inference_model(shipped.model)
    if data_root is not None:
        redirect_data_root(shipped, data_root)
    return shipped


def card_text(entries: Mapping[str, Any], made: Published, classes: tuple[str, ...]) -> str:
    """The model card as Markdown."""
    name, config = made.weights.name, f"{made.folder.name}.py"
    scores = "\n".join(f"| {key} | {value} |" for key, value in entries["scores"].items())
    can = "\n".join(f"- {line}" for line in entries["can"])
    cannot = "\n".join(f"- {line}" for line in entries["cannot"])
    shown = ", ".join(classes[:12]) + (f" and {len(classes) - 12} more" if len(classes) > 12 else "")
    return f"""# {entries['title']}

{entries['summary']}

| | |
| -- | -- |
| weights | `{name}`, {made.size / 1e6:.1f} MB, half precision |
| SHA-256 | `{made.sha256}` |
| config | `{config}` |
| parameters | {made.params / 1e6:.2f} M |
| classes ({len(classes)}) | {shown} |
| licence of the weights | {entries['licence']} |

## Scores

| | |
| -- | -- |
{scores}

Measured with `{entries['score_command']}`.

## Data

{entries['data']}

Licences: {entries['data_licences']}

## Training

{entries['training']}

## What it can do

{can}

## What it cannot do

{cannot}
"""


def _check_fit(model: Any, state: Mapping[str, Tensor], checkpoint: str | Path) -> int:
    """Number of parameters; ValueError if the weights are not those of the model."""
    import mmdet.models  # noqa: F401  (registers them)
    from mmdet.registry import MODELS
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    with torch.device("meta"):
        built = MODELS.build(model)
    expected = {k: tuple(v.shape) for k, v in built.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    bad = [key for key in expected if found.get(key) != expected[key]]
    bad += [key for key in found if key not in expected]
    if bad:
        raise ValueError(
            f"checkpoint {checkpoint} does not fit the config's model: {len(bad)} weights are "
            f"missing, unknown or of another shape ({', '.join(bad[:3])})"
        )
    return sum(parameter.numel() for parameter in built.parameters())


def _classes(content: Any, cfg: Config, checkpoint: str | Path) -> tuple[str, ...]:
    """Names of the classes: the checkpoint's, or the config's test set's."""
    meta = content.get("meta") if isinstance(content, dict) else None
    data = meta.get("dataset_meta") if isinstance(meta, dict) else None
    names = data.get("classes") if isinstance(data, dict) else None
    if not names:
        leaves = data_sets_of(cfg.get("test_dataloader") or {})
        names = next((found for leaf in leaves if (found := config_classes(leaf))), None)
    if not names:
        raise ValueError(
            f"neither checkpoint {checkpoint} nor the config's test set names the classes: give a "
            "config with metainfo.classes"
        )
    return tuple(str(name) for name in names)


def _write_weights(
    state: Mapping[str, Tensor], metadata: dict[str, str], folder: Path, name: str
) -> Path:
    """Write, and name the file after its hash as OpenMMLab does."""
    from safetensors.torch import save_file

    file = folder / "weights.safetensors"
    tensors = {key: value.contiguous() for key, value in state.items()}
    save_file(tensors, file, metadata={"format": "pt", **metadata})
    file.chmod(0o644)  # safetensors makes files that only their owner may read
    plain = re.sub(r"[^\w.-]", "_", name)
    return file.rename(folder / f"{plain}-{_sha256(file)[:8]}.safetensors")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
