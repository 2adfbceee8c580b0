"""The detectors as data: which configs there are, what they cost, what the paper says of them.

One table, from which ``tools/misc/make_tables.py`` writes the README's tables, ``metafile.yml`` and
``model-index.yml``, and against which ``tests/test_models.py`` counts every model. The backbones'
own numbers stand in :data:`mmdet_mobileformer.archs.ARCHS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path


@dataclass(frozen=True)
class Family:
    """Detectors that share everything but the backbone.

    Attributes:
        name: Its collection in ``metafile.yml``.
        title: Its heading in the README.
        architecture: What it is built of.
        epochs: Epochs of its recipe.
        augmentation: Training techniques beside the optimizer.
    """

    name: str
    title: str
    architecture: tuple[str, ...]
    epochs: int
    augmentation: tuple[str, ...]


@dataclass(frozen=True)
class Detector:
    """One config.

    Attributes:
        config: Path below ``configs/``, without ``.py``.
        family: Key of :data:`FAMILIES`.
        arch: The backbone's arch.
        shape: Height and width in pixels at which it is counted: the test size, for RetinaNet
            with its padding to multiples of 32.
        params: Parameters in millions, counted by ``tools/analysis_tools/get_flops.py``.
        madds: Multiply-adds in billions at ``shape``, counted by the same.
        paper_madds: The paper's figure (it says FLOPs); None where it gives none that we have seen.
        paper_ap: The paper's AP on val2017; None where it gives none that we have seen.
        ap: AP on val2017 of our own training; None where there was none.
    """

    config: str
    family: str
    arch: str
    shape: tuple[int, int]
    params: float
    madds: float
    paper_madds: float | None = None
    paper_ap: float | None = None
    ap: float | None = None


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "E2E-MF",
            "E2E-MF, the paper's end-to-end detector",
            ("Mobile-Former", "E2E-MF head"),
            300,
            ("Multi-scale", "Random crop"),
        ),
        Family(
            "E2E-MF-Edge",
            "E2E-MF for 320 to 640 px, with a small head of ours",
            ("Mobile-Former", "E2E-MF head"),
            300,
            ("Multi-scale", "Random crop"),
        ),
        Family(
            "RetinaNet-MobileFormer",
            "RetinaNet, 1x",
            ("Mobile-Former", "FPN", "Focal loss"),
            12,
            (),
        ),
        Family(
            "E2E-MF-Ablation",
            "Ablations of E2E-MF-508M",
            ("Mobile-Former", "E2E-MF head"),
            300,
            ("Multi-scale", "Random crop"),
        ),
    )
}


def _e2emf(arch: str, params: float, madds: float, **paper: float) -> Detector:
    return Detector(f"e2emf_{arch}_coco", "E2E-MF", arch, (800, 1333), params, madds, **paper)


def _edge(arch: str, side: int, params: float, madds: float) -> Detector:
    return Detector(f"e2emf_{arch}_coco", "E2E-MF-Edge", arch, (side, side), params, madds)


def _retinanet(arch: str, params: float, madds: float, **paper: float) -> Detector:
    config = f"retinanet_mobileformer_{arch}_fpn_1x_coco"
    # 800x1333 as mmdet pads it.
    shape = (800, 1344)
    return Detector(config, "RetinaNet-MobileFormer", arch, shape, params, madds, **paper)


def _ablation(what: str, params: float, madds: float) -> Detector:
    config = f"ablation/e2emf_508m_{what}_coco"
    return Detector(config, "E2E-MF-Ablation", "508m", (800, 1333), params, madds)


# The paper's figures are those of arXiv 2108.05895v3 that we have seen: E2E-MF-508M in its abstract
# and text, RetinaNet-508M as SHViT's table quotes it. Those of the smaller ones are left out until
# someone has read them.
DETECTORS: tuple[Detector, ...] = (
    _e2emf("508m", 26.812, 40.601, paper_madds=41.4, paper_ap=43.1),
    _e2emf("294m", 24.933, 35.831),
    _e2emf("214m", 24.067, 34.057),
    _e2emf("151m", 23.230, 32.646),
    _edge("96m", 640, 3.842, 2.491),
    _edge("52m", 480, 3.456, 1.240),
    _edge("26m", 320, 3.261, 0.581),
    _retinanet("508m", 17.968, 168.176, paper_ap=38.0),
    _retinanet("294m", 16.089, 163.667),
    _retinanet("214m", 15.223, 162.048),
    _retinanet("151m", 14.386, 160.754),
    _retinanet("96m", 11.482, 159.905),
    _retinanet("52m", 11.088, 159.012),
    _retinanet("26m", 10.893, 158.504),
    _ablation("one_scale", 30.776, 30.455),
    _ablation("shared_position", 25.628, 40.483),
    _ablation("first_token", 26.812, 39.584),
)


def config_folder() -> Path:
    """The folder of the configs: in the installed package, or in the checkout it runs from.

    Raises:
        FileNotFoundError: If this installation carries none.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / ".mim" / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"mmdet_mobileformer in {package} was installed without its configs: install the wheel, or "
        "run from a checkout"
    )


def config_names() -> list[str]:
    """Names that :func:`config_path` takes: paths below ``configs/`` without ``.py``."""
    folder = config_folder()
    files = (file.relative_to(folder) for file in folder.rglob("*.py"))
    return sorted(file.with_suffix("").as_posix() for file in files if file.parts[0] != "_base_")


def config_path(name: str) -> str:
    """The file of a config that this package brings, wherever it is installed.

    mmengine's ``package::config`` look-up knows OpenMMLab's own packages only, hence this one::

        DetInferencer(config_path("e2emf_96m_coco"), "weights.pth")

    Args:
        name: As in :func:`config_names`; ``.py`` may follow, and the folder may be left out.

    Returns:
        The path of a file for ``Config.fromfile``, ``init_detector``, ``DetInferencer``.

    Raises:
        ValueError: If there is no such config; the sentence names similar ones.
    """
    wanted = name[: -len(".py")] if name.endswith(".py") else name
    names = config_names()
    found = [n for n in names if wanted in (n, n.rpartition("/")[2])]
    if len(found) != 1:
        similar = get_close_matches(wanted, names, n=3, cutoff=0.4) or names[:3]
        raise ValueError(
            f"there is no config {name!r} in mmdet_mobileformer: did you mean "
            f"{' or '.join(similar)}? mmdet_mobileformer.models.config_names() lists all"
        )
    return str(config_folder() / f"{found[0]}.py")


def detectors(family: str) -> tuple[Detector, ...]:
    """The detectors of a family, in the order of the table."""
    return tuple(detector for detector in DETECTORS if detector.family == family)
