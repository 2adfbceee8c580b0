"""Every shipped config: rewritten or refused once, each distinct model checked once, resumable."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet.models")
from mmdet_mobileformer.swap import zoo  # noqa: E402
from mmdet_mobileformer.swap.config_file import read_base  # noqa: E402

R50 = "rpn/rpn_r50_fpn_1x_coco.py"
R101 = "rpn/rpn_r101_fpn_1x_coco.py"
C4 = "faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py"
PART = "yolox/yolox_tta.py"
BROKEN = "sort/faster-rcnn_r50_fpn_8xb2-8e_mot20train_test-mot20train.py"


def test_the_shipped_configs() -> None:
    names = zoo.shipped_configs()
    assert len(names) > 700 and {R50, R101, C4, PART, BROKEN} <= set(names)
    assert not [name for name in names if name.startswith(("_base_/", "common/"))]
    assert {name.split("/")[0] for name in zoo.shipped_configs(["rpn", "ssd"])} == {"rpn", "ssd"}


@pytest.mark.parametrize(
    "name, detector, necks, heads",
    [
        (R50, "RPN", "FPN", "RPNHead"),
        (
            "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py",
            "FasterRCNN",
            "FPN + BFP",
            "StandardRoIHead(Shared2FCBBoxHead, SingleRoIExtractor), RPNHead",
        ),
        (
            "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
            "CascadeRCNN",
            "FPN",
            "CascadeRoIHead(3 x Shared2FCBBoxHead, SingleRoIExtractor, FCNMaskHead, "
            "SingleRoIExtractor), RPNHead",
        ),
        (
            "soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
            "SoftTeacher(FasterRCNN)",
            "FPN",
            "StandardRoIHead(Shared2FCBBoxHead, SingleRoIExtractor), RPNHead",
        ),
        (
            "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
            "Mask2Former",
            "none",
            "MaskFormerFusionHead, Mask2FormerHead",
        ),
        ("lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py", "LAD", "FPN", "LADHead"),
    ],
)
def test_what_tells_rows_apart(name: str, detector: str, necks: str, heads: str) -> None:
    model = read_base(str(zoo.config_root() / name)).to_dict()["model"]
    assert zoo.signature(model) == dict(detector=detector, necks=necks, heads=heads)


def test_a_run_that_is_stopped_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(zoo, "shipped_configs", lambda families: [R50, R101, C4, PART, BROKEN])
    monkeypatch.setattr(zoo, "SHAPE", (64, 64))
    file, lines = tmp_path / "results" / "zoo.json", []

    def stop_before_counting(line: str) -> None:
        lines.append(line)
        if line.startswith("models"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.run_zoo("26m", file, say=stop_before_counting)
    assert [line.split(" ")[0] for line in lines] == ["configs"] * 5 + ["models"]
    lines.clear()
    zoo.run_zoo("26m", file, say=lines.append)
    assert len(lines) == 1 and lines[0].startswith(f"costs {R50}: counted")

    results = json.loads(file.read_text())
    configs = results["configs"]
    assert {name: entry["status"] for name, entry in configs.items()} == {
        R50: "rewritten",
        R101: "rewritten",
        C4: "refused",
        PART: "no model",
        BROKEN: "unreadable",
    }
    assert configs[R50]["strides"] == [4, 8, 16, 32]
    assert "shared_head" in configs[C4]["reason"]
    assert str(zoo.config_root()) not in configs[BROKEN]["reason"]
    # They differ only in the backbone: one model, one row.
    assert configs[R50]["model"] == configs[R101]["model"]
    (model,) = results["models"].values()
    assert model["status"] == "works" and model["predictions"] > 0
    cost = results["costs"][R50]
    assert cost["before"]["params"] > 2 * cost["after"]["params"] > 0
    assert cost["before"]["madds"] > cost["after"]["madds"] > 0
    assert zoo.rows(results)[("RPN", "FPN", "RPNHead")] == [R50, R101]
    assert not list(tmp_path.glob("*.py")), "nothing is left in the current folder"

    lines.clear()
    zoo.run_zoo("26m", file, again=True, say=lines.append)
    assert [line.split(": ")[0] for line in lines] == [f"configs {C4}", f"configs {BROKEN}"]
    with pytest.raises(ValueError, match="holds results of 26m, not of 96m: name another file"):
        zoo.run_zoo("96m", file)


def test_a_process_that_dies_or_hangs_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "zoo.log"

    def noisy(value: int) -> dict[str, Any]:
        os.write(1, b"said 1\n")
        return dict(value=value)

    assert zoo._in_process(noisy, (1,), log) == dict(value=1)
    assert log.read_text() == "said 1\n"
    died = zoo._in_process(lambda: os._exit(3), (), log)
    assert died == dict(status="fails", reason="the process ended without a result (memory?)")
    raised = zoo._in_process(lambda: dict(x=1 / 0), (), log)
    assert raised == dict(status="fails", reason="ZeroDivisionError: division by zero")
    monkeypatch.setattr(zoo, "TIMEOUT", 0.2)
    start = time.monotonic()
    hung = zoo._in_process(lambda: time.sleep(60), (), log)  # type: ignore[arg-type,return-value]
    assert hung == dict(status="fails", reason="no result after 0.2 s")
    assert time.monotonic() - start < 20
