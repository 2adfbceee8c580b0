"""The report as text and as JSON."""

from __future__ import annotations

import json

from mmdet_mobileformer.data.doctor.report import Finding, Report, Summary


def report() -> Report:
    names = [f"{n}.jpg" for n in range(7)]
    return Report(
        [
            Finding("note", "exif", "train", "7 pictures carry EXIF", "", 7, names),
            Finding("error", "no-boxes", "val", "nothing to learn", "Label more."),
            Finding(
                "warning", "file-empty", "train", "1 picture is empty", "Restore it.", 1, ["a.jpg"]
            ),
            Finding("warning", "overlap", "train and val", "shared", "Label more."),
        ],
        [
            Summary("train", "t.json", "t", 1234, 5, ["a"]),
            Summary("val", "v.json", "v", 2, 3, ["a"]),
        ],
        {"torch": "2.13.0", "mmdet": None},
    )


def test_text() -> None:
    text = report().text()
    assert text == (
        "Stack: torch 2.13.0, mmdet absent\n"
        "  nothing to report\n"
        "\n"
        "Data set train: t.json\n"
        "  1,234 images in t, 5 boxes, 1 classes\n"
        "  warning 1 picture is empty: a.jpg\n"
        "  note    7 pictures carry EXIF: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 2 more\n"
        "\n"
        "Data set val: v.json\n"
        "  2 images in v, 3 boxes, 1 classes\n"
        "  error   nothing to learn\n"
        "\n"
        "train and val:\n"
        "  warning shared\n"
        "\n"
        "1 error, 2 warnings, 1 note: training cannot start.\n"
        "What to do:\n"
        "  1. Label more.\n"
        "  2. Restore it."
    )


def test_nothing_found() -> None:
    text = Report().text()
    assert text == "0 errors, 0 warnings, 0 notes: training can start.\nNothing to do."


def test_json() -> None:
    found = json.loads(report().json())
    assert found["exit_code"] == 1 and found["counts"] == dict(error=1, warning=2, note=1)
    assert [f["level"] for f in found["findings"]] == ["error", "warning", "warning", "note"]
    assert found["findings"][-1]["names"] == [f"{n}.jpg" for n in range(7)]
    assert found["sets"][0]["classes"] == ["a"] and found["stack"]["mmdet"] is None


def test_exit_codes() -> None:
    warning = Report([Finding("warning", "a", "b", "c")])
    assert warning.exit_code() == 0 and warning.exit_code(strict=True) == 1
    assert Report([Finding("note", "a", "b", "c")]).exit_code(strict=True) == 0
    assert "training cannot start" in warning.text(strict=True)


def test_boxes_left_out_counts_training_only() -> None:
    findings = [
        Finding("warning", "boxes-empty", "train_dataloader", "x", "", 3),
        Finding("warning", "boxes-outside", "train_dataloader", "x", "", 2),
        Finding("warning", "boxes-outside", "val_dataloader", "x", "", 9),
        Finding("warning", "file-empty", "train_dataloader", "x", "", 9),
    ]
    sets = [Summary(f"{s}_dataloader", "", "", 0, 0, []) for s in ("train", "val")]
    assert Report(findings, sets).boxes_left_out == 5
