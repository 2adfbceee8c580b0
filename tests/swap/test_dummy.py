"""The batch for the check has what detectors ask for."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet.models")
from mmdet_mobileformer.swap.dummy import dummy_batch  # noqa: E402


def test_two_images_with_every_annotation() -> None:
    batch = dummy_batch(dict(model=dict(bbox_head=dict(num_classes=80))), 64)
    assert [tuple(image.shape) for image in batch["inputs"]] == [(3, 64, 64)] * 2
    assert not torch.equal(*batch["inputs"])
    for sample in batch["data_samples"]:
        boxes, masks = sample.gt_instances.bboxes, sample.gt_instances.masks
        assert (boxes[:, 2:] - boxes[:, :2] > 8).all() and boxes.min() >= 0 and boxes.max() <= 64
        assert sample.gt_instances.labels.tolist() == [0, 1, 2]
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        # An ellipse covers pi/4 of its box.
        assert masks.areas / areas.numpy() == pytest.approx([0.785] * 3, abs=0.08)
        assert sample.gt_sem_seg.sem_seg.shape == (1, 64, 64)
        assert len(sample.ignored_instances) == 0
        assert len(sample.proposals) == 27 and sample.proposals.bboxes.max() <= 64


def test_labels_and_semantic_map_follow_the_config() -> None:
    one = dict(model=dict(a=dict(num_classes=80), b=[dict(num_classes=1)]))
    labels = dummy_batch(one, 64)["data_samples"][0].gt_instances.labels
    assert labels.tolist() == [0, 0, 0]

    pipeline = [dict(type="Resize"), dict(type="SegRescale", scale_factor=1 / 8)]
    stuff = dict(
        model=dict(head=dict(num_things_classes=80, num_stuff_classes=53)),
        train_dataloader=dict(dataset=dict(dataset=dict(pipeline=pipeline))),
    )
    semantic = dummy_batch(stuff, 64)["data_samples"][0].gt_sem_seg.sem_seg
    assert semantic.shape == (1, 8, 8)
    assert set(semantic.unique().tolist()) <= {0, 1, 2, 80} and 80 in semantic


def test_masks_are_for_those_that_load_them() -> None:
    for loader, masks in (
        (dict(type="LoadAnnotations", with_bbox=True), False),
        (dict(type="LoadAnnotations", with_bbox=True, with_mask=True), True),
        (dict(type="LoadPanopticAnnotations"), True),
    ):
        cfg = dict(model=dict(num_classes=3), train_dataloader=dict(dataset=dict(pipeline=[loader])))
        for sample in dummy_batch(cfg, 64)["data_samples"]:
            assert ("masks" in sample.gt_instances) is masks


def test_proposals_are_for_those_without_an_rpn() -> None:
    two_stage = dict(model=dict(rpn_head=dict(type="RPNHead"), num_classes=3))
    assert "proposals" not in dummy_batch(two_stage, 64)["data_samples"][0]


def test_branches_of_semi_supervised_training() -> None:
    batch = dummy_batch(dict(model=dict(semi_train_cfg=dict(), num_classes=3)), 64)
    assert set(batch["inputs"]) == set(batch["data_samples"])
    assert {len(images) for images in batch["inputs"].values()} == {2}
