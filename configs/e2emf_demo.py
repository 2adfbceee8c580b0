# A small E2E-MF on the embedded data set: what `make demo` trains, in minutes on two cores.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/shapes_detection.py',
    '_base_/e2emf.py',
]

pretrained = None

model = dict(
    type='E2EMFWithAuxiliary',
    # The smallest arch without grouped convolutions, which CPUs run slowly.
    backbone=dict(arch='52m'),
    bbox_head=dict(
        arch='52m',
        num_classes=6,
        # Half the width and four blocks in place of nine: the pictures are small and simple, with
        # at most 15 objects. Without dropout: the training is too short to overfit.
        num_blocks=(2, 1, 1),
        embed_dims=128,
        query_ffn_dims=256,
        side_ffn_dims=512,
        num_queries=30,
        reference_points=True,
        dropout=0.0),
    # In training only: a backbone from scratch learns little from 30 queries in so short a time.
    aux_weight=5.0,
    aux_neck=dict(type='MobileFormerFPN', arch='52m', out_channels=64, num_outs=3),
    aux_head=dict(
        type='FCOSHead',
        num_classes=6,
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,
        strides=(8, 16, 32),
        regress_ranges=((-1, 24), (24, 48), (48, 1e8)),
        center_sampling=True,
        norm_on_bbox=True,
        centerness_on_reg=True,
        loss_cls=dict(
            type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    test_cfg=dict(max_per_img=30))

# tools/demo.py trains with two processes of one thread each, which suit so small a model.
# They make a batch of 16.
train_dataloader = dict(batch_size=8)
max_epochs = 12
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    # One group of parameters and the fused optimizer: mmengine's paramwise settings would make a
    # group of every parameter, and the fused optimizer would gain nothing.
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-4, fused=True),
    clip_grad=dict(max_norm=0.1, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        eta_min=0,
        convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
