"""What is written from the table of models: README tables, ``metafile.yml``, ``model-index.yml``.

Everything here follows from :mod:`..models` and :mod:`..archs`; ``tools/misc/make_tables.py`` writes
the files, and ``--check`` fails where one differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.fileio import dump

from ..archs import ARCHS
from ..models import DETECTORS, FAMILIES, Detector, config_path, detectors
from ..version import __version__

PAPER = {
    "URL": "https://arxiv.org/abs/2108.05895",
    "Title": "Mobile-Former: Bridging MobileNet and Transformer",
}
#: Where the metafile lies, from the root of the repository and in the wheel's ``.mim``.
METAFILE = "configs/metafile.yml"
_GENERATED = "# Written by tools/misc/make_tables.py from mmdet_mobileformer/models.py.\n"
_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["--"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _billions(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _or(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.1f}"


def family_table(family: str) -> str:
    """The README's table of one family of detectors, in Markdown."""
    rows = detectors(family)
    # Columns of the paper's figures only where there are any.
    paper_madds = any(row.paper_madds is not None for row in rows)
    paper_ap = any(row.paper_ap is not None for row in rows)

    def cells(row: Detector) -> list[str]:
        line = [
            f"`configs/{row.config}.py`",
            f"{row.shape[0]}x{row.shape[1]}",
            f"{row.params:.2f}",
            _billions(row.madds),
        ]
        line += [_or(row.paper_madds, "-")] if paper_madds else []
        line += [_or(row.paper_ap, "-")] if paper_ap else []
        return [*line, _or(row.ap, "not trained")]

    head = ["config", "input px", "params M", "MAdds G"]
    head += ["MAdds G of the paper"] if paper_madds else []
    head += ["AP of the paper"] if paper_ap else []
    return _table([*head, "AP of ours"], map(cells, rows))


def detector_tables() -> str:
    """All families, each below its title."""
    parts = [f"**{family.title}**\n\n{family_table(name)}" for name, family in FAMILIES.items()]
    return "\n" + "\n".join(parts) + "\n"


def backbone_table() -> str:
    """The README's table of backbones, in Markdown."""
    return _table(
        [
            "backbone",
            "params M with classifier",
            "MAdds M at 224",
            "channels at stride 4, 8, 16, 32",
            "ImageNet top-1 of the paper",
        ],
        (
            [
                arch.name,
                f"{arch.params:.3f}",
                f"{arch.madds:.1f}",
                ", ".join(map(str, arch.out_channels)),
                f"{arch.top1:.1f}",
            ]
            for arch in ARCHS.values()
        ),
    )


#: Generated blocks of the README: ``<!-- table: NAME -->`` ... ``<!-- end -->``.
BLOCKS = {"detectors": detector_tables, "backbones": backbone_table}


def fill_blocks(text: str, file: str) -> str:
    """A document with its generated blocks replaced.

    Raises:
        ValueError: If a block is missing, or there is one of an unknown name.
    """
    names = [match["name"] for match in _BLOCK.finditer(text)]
    if sorted(names) != sorted(BLOCKS):
        raise ValueError(
            f"{file} has the blocks {names}, but needs each of {sorted(BLOCKS)} once: "
            "<!-- table: NAME --> ... <!-- end -->"
        )
    return _BLOCK.sub(lambda m: f"{m[1]}{BLOCKS[m['name']]()}{m[4]}", text)


def metafile() -> str:
    """``configs/metafile.yml`` in OpenMMLab's format; without results that we did not measure."""
    collections = [
        {
            "Name": family.name,
            "Metadata": {
                "Training Data": "COCO",
                "Training Techniques": ["AdamW", "Weight Decay", *family.augmentation],
                "Architecture": list(family.architecture),
            },
            "Paper": dict(PAPER),
            "Code": {"Version": f"v{__version__}"},
        }
        for family in FAMILIES.values()
    ]
    models = [_model(detector) for detector in DETECTORS]
    return _GENERATED + _yaml({"Collections": collections, "Models": models})


def _model(detector: Detector) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "Name": detector.config.rpartition("/")[2],
        "In Collection": detector.family,
        "Config": f"configs/{detector.config}.py",
        "Metadata": {
            "Parameters": round(detector.params * 1e6),
            "FLOPs": round(detector.madds * 1e9),
            "Input Size": f"{detector.shape[0]}x{detector.shape[1]}",  # mim fails on lists of numbers
            "Epochs": FAMILIES[detector.family].epochs,
        },
    }
    if detector.ap is not None:
        metrics = {"box AP": detector.ap}
        task = {"Task": "Object Detection", "Dataset": "COCO", "Metrics": metrics}
        entry["Results"] = [task]
    return entry


def model_index() -> str:
    """``model-index.yml``, from which mim and others find the metafiles."""
    return _GENERATED + _yaml({"Import": [METAFILE]})


def _yaml(content: Any) -> str:
    text: str = dump(content, file_format="yaml", sort_keys=False, width=100)
    return text


def generated_files(root: str | Path) -> dict[Path, str]:
    """Every generated file of a checkout and what it should hold.

    Raises:
        FileNotFoundError: If ``root`` is no checkout.
        ValueError: If the README lacks a block.
    """
    readme = Path(root) / "README.md"
    if not readme.is_file() or not (Path(root) / "configs").is_dir():
        raise FileNotFoundError(f"{root} is no checkout of this repository: no README.md, configs/")
    return {
        readme: fill_blocks(readme.read_text(encoding="utf-8"), "README.md"),
        Path(root) / METAFILE: metafile(),
        Path(root) / "model-index.yml": model_index(),
    }


def recount() -> list[str]:
    """Count every detector and say where the table differs; takes a second or two per config."""
    import torch

    from .flops import count, model_from_config

    lines = []
    for detector in DETECTORS:
        with torch.device("meta"):
            model = model_from_config(config_path(detector.config))
        found = count(model, detector.shape)
        params, madds = round(found.total_params / 1e6, 3), round(found.total_madds / 1e9, 3)
        if (params, madds) != (detector.params, detector.madds):
            lines.append(
                f"{detector.config}: params={params:.3f}, madds={madds:.3f}, but models.py has "
                f"params={detector.params:.3f}, madds={detector.madds:.3f}"
            )
    return lines
