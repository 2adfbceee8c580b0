# The edge family's E2E-MF with what teaches it in training only (ours): denoising queries and a dense head.
# Configs that build on it name the archs and classes of both heads, and the dense head's sizes in pixels.
_base_ = 'e2emf_edge.py'

model = dict(
    type='E2EMFWithAuxiliary',
    bbox_head=dict(
        # Queries that start from noisy ground truth and know their object (DN-DETR), in training.
        type='E2EMFTrainingHead',
        denoising=dict(
            label_noise_scale=0.5,
            box_noise_scale=1.0,
            group_cfg=dict(dynamic=True, num_dn_queries=40)),
        # Boxes beside a matched one learn its object, too.
        near=0.4,
        # And of all but the last two predictions the class: only then one query of an object is chosen.
        near_classes=3,
        # As many weights as with four.
        num_heads=8,
        # Short trainings from scratch do not overfit.
        dropout=0.0,
        # The queries read what the dense head teaches: it is where the objects' middles are.
        look='fixed',
        # A box moves by shares of itself, wherever it is, and by a block that knows its size.
        deltas='box',
        size_aware=True,
        # A query sees which better ones are on its object.
        rivals=True,
        # The finest map, which the dense head teaches, tells boxes more exactly than contents do.
        read_boxes=True),
    # A dense head on the maps that the queries read teaches at every position, in training. It has no layers
    # of its own before its predictions: class and box are to be found in the maps themselves.
    aux_head=dict(
        type='FCOSHead',
        in_channels=128,
        feat_channels=128,
        stacked_convs=0,
        strides=(8, 16, 32),
        center_sampling=True,
        norm_on_bbox=True,
        centerness_on_reg=True,
        loss_cls=dict(
            type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ])))
