"""A tiny data set in COCO's layout and a tiny E2E-MF with a whole config, for runs of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

#: Boxes (x, y, w, h) per training image. With two processes, rank 1 gets the images without any.
TRAIN = ([(5, 5, 20, 30), (30, 10, 25, 20)], [], [(12, 20, 30, 30)], [])
VAL = ([(10, 8, 24, 24)], [(30, 20, 20, 30), (4, 4, 16, 16)], [])

CONFIG = """
default_scope = 'mmdet'
data_root = 'data/nowhere/'
pretrained = None
model = dict(
    type='E2EMF',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(type='MobileFormer', arch='26m', out_indices=(1, 2, 3)),
    bbox_head=dict(
        type='E2EMFHead',
        arch='26m',
        num_classes=2,
        num_queries=10,
        embed_dims=16,
        num_heads=2,
        query_ffn_dims=16,
        side_ffn_dims=16,
        expansion=2,
        num_blocks=(1, 1, 1),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=1.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=10),
)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
resize = [dict(type='Resize', scale=(64, 64), keep_ratio=True)]
pack = [
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    )
]
common = dict(
    type='CocoDataset',
    data_root=data_root,
    metainfo=dict(classes=('box', 'disc')),
    pipeline=load + resize + pack,
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='RepeatDataset',
        times=1,
        dataset=dict(
            ann_file='annotations/instances_train.json',
            data_prefix=dict(img='train/'),
            filter_cfg=dict(filter_empty_gt=False),
            **common,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        **common,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='CocoMetric', ann_file=data_root + 'annotations/instances_val.json', metric='bbox'),
    dict(type='DumpDetResults', out_file_path='val.pkl'),
]
test_evaluator = val_evaluator[:1]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))),
)
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=1),
    visualization=dict(type='DetVisualizationHook'),
)
env_cfg = dict(dist_cfg=dict(backend='nccl'), mp_cfg=dict(mp_start_method='fork'))
randomness = dict(seed=0)
log_processor = dict(type='LogProcessor', window_size=1, by_epoch=True)
"""


def make_data(root: Path) -> Path:
    """Write the images and annotations; returns `root`."""
    generator = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, images in (("train", TRAIN), ("val", VAL)):
        (root / split).mkdir()
        coco: dict[str, list[object]] = dict(
            images=[], annotations=[], categories=[dict(id=1, name="box"), dict(id=2, name="disc")]
        )
        for index, boxes in enumerate(images, start=1):
            image = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            for box in boxes:
                x, y, w, h = box
                cv2.rectangle(image, (x, y), (x + w, y + h), (255, 255, 255), -1)
                coco["annotations"].append(
                    dict(
                        id=len(coco["annotations"]) + 1,
                        image_id=index,
                        category_id=1 + len(coco["annotations"]) % 2,
                        bbox=list(box),
                        area=w * h,
                        iscrowd=0,
                    )
                )
            cv2.imwrite(str(root / split / f"{index}.png"), image)
            coco["images"].append(dict(id=index, file_name=f"{index}.png", width=64, height=64))
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(coco))
    return root


def make_run(folder: Path) -> tuple[Path, Path]:
    """Write data and config into a folder; returns the config file and the data root."""
    config = folder / "tiny.py"
    config.write_text(CONFIG)
    return config, make_data(folder / "data")
