"""The table of detectors against the models, and against arithmetic on the arch data."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet_mobileformer import ARCHS, models  # noqa: E402
from mmdet_mobileformer.analysis.flops import count, model_from_config  # noqa: E402
from mmdet_mobileformer.archs import BlockSpec, get_arch  # noqa: E402
from mmdet_mobileformer.models import DETECTORS, FAMILIES, config_names, config_path  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
#: RetinaNet's parameters in M and MAdds in G, by the reference facts: arithmetic of others, on
#: 800x1333 padded to 800x1344 and the dynamic ReLU of the first token.
FACTS = {"508m": (17.97, 168.2), "294m": (16.09, 163.7), "214m": (15.22, 162.0), "151m": (14.39, 160.7)}


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: d.config)
def test_params_and_madds_are_those_of_the_config(detector: models.Detector) -> None:
    with torch.device("meta"):
        model = model_from_config(config_path(detector.config))
    found = count(model, detector.shape)
    assert not found.uncounted
    counted = (round(found.total_params / 1e6, 3), round(found.total_madds / 1e9, 3))
    assert counted == (detector.params, detector.madds), (
        "the model changed: run tools/misc/make_tables.py --count and correct models.py"
    )


def halved(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 2), -(-size[1] // 2)


class Sum:
    """Parameters and MAdds, written down from the paper's block descriptions."""

    def __init__(self) -> None:
        self.params = self.madds = 0

    def conv(self, cin: int, cout: int, k: int, size: tuple[int, int], groups: int = 1) -> None:
        """Convolution without bias and its BatchNorm."""
        weights = k * k * cin * cout // groups
        self.params += weights + 2 * cout
        self.madds += weights * size[0] * size[1]

    def linear(self, cin: int, cout: int, rows: int) -> None:
        self.params += cin * cout + cout
        self.madds += cin * cout * rows

    def norm(self, width: int) -> None:
        self.params += 2 * width


def backbone(name: str) -> Sum:
    """Mobile-Former on 800x1344, first-token dynamic ReLU, without the classifier."""
    arch, total = get_arch(name), Sum()
    d, tokens = arch.token_dim, arch.num_tokens
    size = halved((800, 1344))
    total.params += tokens * d
    total.conv(3, arch.stem, 3, size)
    width = arch.stem
    for block in arch.blocks:
        size = mobile(total, block, width, size, arch.groups, d, tokens)
        width = block.width
    return total


def mobile(
    total: Sum, block: BlockSpec, cin: int, size: tuple[int, int], groups: int, d: int, tokens: int
) -> tuple[int, int]:
    """One block; returns the size of its output."""
    if block.kind != "lite":  # Mobile→Former and Former, on the block's input
        total.linear(d, cin, tokens)
        total.linear(d, cin, tokens)
        total.linear(cin, d, tokens)
        total.norm(d)
        total.madds += 2 * tokens * cin * size[0] * size[1]
        total.linear(d, d, tokens)
        total.linear(d, d, tokens)
        total.norm(d)
        total.madds += 2 * tokens * tokens * d
        total.linear(d, 2 * d, tokens)
        total.linear(2 * d, d, tokens)
        total.norm(d)
    size = halved(size) if block.stride == 2 else size
    first = cin * block.expansions[0]
    if block.kind == "mobile":
        total.conv(cin, first, 1, size, groups)
        total.conv(first, first, 3, size, first)
        total.conv(first, block.width, 1, size, groups)
        relus = (first, first)
    else:
        total.conv(cin, first, 3, size, cin)
        total.conv(first, block.width, 1, size, groups)
        if block.kind == "lite":
            return size
        second = block.width * block.expansions[1]
        total.conv(block.width, second, 3, size, block.width)
        total.conv(second, block.width, 1, size, groups)
        relus = (first, second)
    for channels in relus:
        total.linear(d, d // 4, 1)
        total.linear(d // 4, 2 * channels, 1)
    total.linear(d, block.width, tokens)  # Mobile←Former, on the block's output
    total.linear(d, block.width, tokens)
    total.madds += 2 * tokens * block.width * size[0] * size[1]
    return size


def retinanet(name: str) -> Sum:
    """The backbone with FPN, P6 from P5's output, and heads of four convolutions."""
    total = backbone(name)
    sizes = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    areas = [height * width for height, width in sizes]

    def conv(cin: int, cout: int, k: int, area: int) -> None:
        total.params += k * k * cin * cout + cout
        total.madds += k * k * cin * cout * area

    for width, area in zip(get_arch(name).out_channels[1:], areas):
        conv(width, 256, 1, area)
    for area in areas:
        conv(256, 256, 3, area)
    for _ in range(8):
        conv(256, 256, 3, sum(areas))
    conv(256, 9 * 80, 3, sum(areas))
    conv(256, 9 * 4, 3, sum(areas))
    return total


@pytest.mark.parametrize("arch", ARCHS)
def test_retinanet_is_what_the_arch_data_says(arch: str) -> None:
    expected = retinanet(arch)
    (detector,) = [d for d in models.detectors("RetinaNet-MobileFormer") if d.arch == arch]
    assert round(expected.params / 1e6, 3) == detector.params
    assert round(expected.madds / 1e9, 3) == detector.madds
    if arch in FACTS:
        params, madds = FACTS[arch]
        assert detector.params == pytest.approx(params, abs=0.005)
        # Half a digit of the facts' rounding, and some 10 M that they do not count.
        assert detector.madds == pytest.approx(madds, abs=0.06)


def test_the_table_is_complete() -> None:
    listed = {detector.config for detector in DETECTORS}
    assert len(listed) == len(DETECTORS)
    # The demo belongs to `make demo`, not to the zoo; imagenet/ is mmpretrain's.
    zoo = re.compile(r"(ablation/)?(e2emf|retinanet_mobileformer)_.*_coco")
    assert {name for name in config_names() if zoo.fullmatch(name)} == listed
    for family in FAMILIES:
        assert models.detectors(family)
    for detector in models.detectors("RetinaNet-MobileFormer"):
        assert detector.arch in detector.config
    assert {d.arch for d in models.detectors("RetinaNet-MobileFormer")} == set(ARCHS)
    e2emf = {d.arch for family in ("E2E-MF", "E2E-MF-Edge") for d in models.detectors(family)}
    assert e2emf == set(ARCHS)


def test_a_config_is_found_by_name() -> None:
    file = ROOT / "configs" / "e2emf_96m_coco.py"
    assert Path(config_path("e2emf_96m_coco")) == Path(config_path("e2emf_96m_coco.py")) == file
    short, full = "e2emf_508m_one_scale_coco", "ablation/e2emf_508m_one_scale_coco"
    assert config_path(short) == config_path(full) == str(ROOT / "configs" / f"{full}.py")
    assert not any(name.startswith("_base_") for name in config_names())


def test_an_unknown_config_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="no config 'e2emf_97m_coco'.*e2emf_96m_coco") as error:
        config_path("e2emf_97m_coco")
    assert "\n" not in str(error.value)


def test_an_installation_without_configs_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mmdet_mobileformer").mkdir()
    monkeypatch.setattr(models, "__file__", str(tmp_path / "mmdet_mobileformer" / "models.py"))
    with pytest.raises(FileNotFoundError, match="installed without its configs"):
        config_path("e2emf_96m_coco")
    # In the installed package they lie where mim looks for them.
    (tmp_path / "mmdet_mobileformer" / ".mim" / "configs").mkdir(parents=True)
    (tmp_path / "mmdet_mobileformer" / ".mim" / "configs" / "mine.py").touch()
    assert config_path("mine").endswith("mmdet_mobileformer/.mim/configs/mine.py")


def test_the_table_needs_neither_torch_nor_mm() -> None:
    """models.py, pairing.py and archs.py are the ground floor: setup and docs may read them."""
    code = (
        "import sys, types; p = types.ModuleType('p'); p.__path__ = [sys.argv[1]];"
        "sys.modules['p'] = p; import p.models, p.pairing;"
        "print([m for m in ('torch', 'mmengine', 'mmdet') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "mmdet_mobileformer")]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "[]"
