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
        # Further queries in training only, see mmdet_mobileformer/train/denoising.py.
        type='E2EMFTrainingHead',
        denoising=dict(
            label_noise_scale=0.5,
            box_noise_scale=1.0,
            group_cfg=dict(dynamic=True, num_dn_queries=40)),
        arch='52m',
        num_classes=6,
        # Half the width and four blocks in place of nine: the pictures are small and simple, with
        # at most 15 objects. Without dropout: the training is too short to overfit.
        num_blocks=(2, 1, 1),
        embed_dims=128,
        query_ffn_dims=256,
        side_ffn_dims=512,
        num_queries=49,
        reference_boxes=True,
        dropout=0.0,
        # The score learns the IoU of its box.
        loss_cls=dict(
            _delete_=True, type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=2.0)),
    # In training only: a backbone from scratch learns little from few queries in so short a time.
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
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ])),
    test_cfg=dict(max_per_img=49))

# tools/demo.py trains with two processes of one thread each, which suit so small a model.
# They make a batch of 16.
train_dataloader = dict(batch_size=8)
train_cfg = dict(type='MinutesTrainLoop', minutes=17, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=1e-4, fused=True),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            'backbone.tokens': dict(decay_mult=0.0),
            'query_embedding': dict(decay_mult=0.0),
        }))
# The loop sets the learning rate, so there are no schedulers to save.
default_hooks = dict(checkpoint=dict(save_param_scheduler=False))
# The average of the weights is what is validated, saved and tested.
custom_hooks = [
    dict(type='NumClassCheckHook'),
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=0.002,
        gamma=200,
        update_buffers=True,
        priority=49),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
