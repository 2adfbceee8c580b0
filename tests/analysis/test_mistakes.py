"""Confusion matrix and error analysis on predictions whose mistakes are known."""

from __future__ import annotations

import csv
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
from tiny_run import make_run  # noqa: E402

from mmdet_mobileformer.analysis.browse import browse, data_set  # noqa: E402
from mmdet_mobileformer.analysis.mistakes import (  # noqa: E402
    annotation_file,
    confusion_matrix,
    error_analysis,
    write_confusion_matrix,
)
from mmdet_mobileformer.analysis.outputs import check_new  # noqa: E402
from mmdet_mobileformer.analysis.predictions import (  # noqa: E402
    coco_results,
    in_order,
    read_coco_results,
    read_predictions,
)
from mmdet_mobileformer.train.build import read_config  # noqa: E402


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def val(tiny: tuple[Path, Path]) -> Any:
    config, data = tiny
    return data_set(read_config(str(config)), "test", str(data))


def prediction(img_id: int, boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, Any]:
    instances = dict(
        bboxes=torch.tensor(boxes).reshape(-1, 4),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels, dtype=torch.int64),
    )
    return dict(img_id=img_id, pred_instances=instances, scale_factor=np.array([1.0, 1.0]))


#: Validation objects: image 1 a box at (10, 8, 34, 32); image 2 a disc at (30, 20, 50, 50) and a box
#: at (4, 4, 20, 20); image 3 none.
PREDICTIONS = [
    prediction(2, [[30, 20, 50, 50], [4, 4, 20, 20]], [0.9, 0.1], [0, 0]),  # a disc taken for a box
    prediction(1, [[10, 8, 34, 32]], [0.8], [0]),  # right
    prediction(3, [[0, 0, 30, 30]], [0.7], [1]),  # of nothing
]


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    file = tmp_path / "predictions.pkl"
    file.write_bytes(pickle.dumps(PREDICTIONS))
    return file


def test_confusion_matrix_counts_each_mistake(val: Any, pickled: Path, tmp_path: Path) -> None:
    counts = confusion_matrix(val, pickled)
    # Rows box, disc, nothing; columns the same. The box of image 2 has a score below 0.3.
    assert counts.tolist() == [[1, 0, 1], [1, 0, 1], [0, 1, 0]]
    write_confusion_matrix(counts, ("box", "disc"), tmp_path / "out", "title")
    rows = list(csv.reader((tmp_path / "out/confusion_matrix.csv").open()))
    assert rows[2] == ["disc", "1", "0", "1"]
    assert (tmp_path / "out/confusion_matrix.png").stat().st_size > 5000


def test_error_analysis_forgives_step_by_step(
    val: Any, tiny: tuple[Path, Path], pickled: Path, tmp_path: Path
) -> None:
    file = annotation_file(val)
    assert Path(file) == tiny[1] / "annotations/instances_val.json"
    scores = error_analysis(file, pickled, tmp_path / "out", ("box", "disc"))
    order = [scores[name] for name in ("C75", "C50", "Loc", "Sim", "Oth", "BG", "FN")]
    assert order == sorted(order) and order[-1] == 1.0
    # The disc is never found as one, so half the classes have no precision until that is forgiven.
    assert 0 < scores["C75"] <= 0.5
    assert (tmp_path / "out/bbox/bbox-allclass-allarea.png").is_file()
    with pytest.raises(ValueError, match="class 'cat' is not in the annotation file's categories"):
        error_analysis(file, pickled, tmp_path / "other", ("box", "cat"))


def test_overall_leaves_out_the_plots_of_classes(val: Any, pickled: Path, tmp_path: Path) -> None:
    error_analysis(annotation_file(val), pickled, tmp_path / "out", ("box", "disc"), overall=True)
    assert {file.name.split("-")[1] for file in (tmp_path / "out/bbox").iterdir()} == {"allclass"}


def test_coco_s_form_is_read_back(val: Any, pickled: Path, tmp_path: Path) -> None:
    found = coco_results(read_predictions(pickled), [1, 2])
    assert found[0] == dict(image_id=2, category_id=1, bbox=[30, 20, 20, 30], score=pytest.approx(0.9))
    results = tmp_path / "results.json"
    results.write_text(json.dumps(found))
    assert read_coco_results(results) == found
    results.write_text(json.dumps([{**found[0], "image_id": 77}]))
    with pytest.raises(ValueError, match="1 images of it are not in"):
        error_analysis(annotation_file(val), results, tmp_path / "out")


def test_pickles_run_no_code(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit('ran')",)

    file = tmp_path / "bad.pkl"
    file.write_bytes(pickle.dumps([Code()]))
    with pytest.raises(ValueError, match=r"no pickle of predictions \(builtins.exec\)"):
        read_predictions(file)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="bad.pkl is no pickle"):
        read_predictions(file)
    file.write_bytes(pickle.dumps([dict(img_id=1)]))
    with pytest.raises(ValueError, match="no list of boxes"):
        read_predictions(file)
    with pytest.raises(FileNotFoundError, match="do not exist"):
        read_predictions(tmp_path / "absent.pkl")


def test_predictions_of_other_images(tmp_path: Path) -> None:
    assert [item["img_id"] for item in in_order(PREDICTIONS, [1, 2, 3])] == [1, 2, 3]
    with pytest.raises(ValueError, match="3 images and the data set has 4, 1 of them without"):
        in_order(PREDICTIONS, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="label 1 is none of"):
        coco_results(PREDICTIONS, [1])
    file = tmp_path / "results.json"
    file.write_text('[{"image_id": 1}]')
    with pytest.raises(ValueError, match="COCO's results form"):
        read_coco_results(file)


def test_browse_draws_file_and_augmented_versions(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    from PIL import Image

    config, data = tiny
    dataset = data_set(read_config(str(config)), "train", str(data))
    written = list(browse(dataset, tmp_path / "out", count=3, times=2, panel=100))
    assert [file.name for file in written] == ["0000_1.png", "0001_2.png", "0002_3.png"]
    sheet = np.asarray(Image.open(written[0]).convert("RGB"))
    assert sheet.shape == (168, 3 * 112 + 12, 3)
    # The first class is red, see pictures.py: its outline is in all three panels.
    red = (np.abs(sheet.astype(int) - (230, 57, 70)).sum(axis=2) < 30).any(axis=0)
    assert [bool(red[12 + 112 * k : 112 + 112 * k].any()) for k in range(3)] == [True] * 3


def test_wrong_data_sets_are_named(tiny: tuple[Path, Path], tmp_path: Path) -> None:
    cfg = read_config(str(tiny[0]))
    with pytest.raises(FileNotFoundError):
        data_set(cfg, "val", str(tmp_path / "nowhere"))
    cfg.pop("val_dataloader")
    with pytest.raises(ValueError, match="has no val_dataloader"):
        data_set(cfg, "val")
    with pytest.raises(ValueError, match="needs a CocoDataset"):
        annotation_file(object())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    check_new(tmp_path / "a/b/new", "--out")
    with pytest.raises(FileExistsError, match="--out .* exists already"):
        check_new(tmp_path, "--out")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        check_new(tmp_path / "file/new", "--out")
