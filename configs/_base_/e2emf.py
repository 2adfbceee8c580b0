# E2E-MF with the head of the paper (reconstructed: see the README). Configs name the arch.
model = dict(
    type='E2EMF',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(
        type='MobileFormer',
        dynamic_relu='spatial-aware',
        out_indices=(1, 2, 3),
        # From scratch BatchNorm has to train; `pretrained` in a config changes it to True.
        norm_eval=False),
    bbox_head=dict(
        type='E2EMFHead',
        num_classes=80,
        # Five M-F+ blocks at 1/32, two M-F- at 1/16, two at 1/8, 100 queries: E2EMFHead's defaults.
        loss_cls=dict(
            type='CrossEntropyLoss', bg_cls_weight=0.1, use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=1.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ])),
    test_cfg=dict(max_per_img=100))
