# E2E-MF-96M with a recipe that learns many times faster than the paper's (ours); configs/e2emf_96m_coco.py
# is the paper's at the same size. Inference is E2EMF's: 100 queries, no NMS, no parameter more. What stands
# here for training only (denoising queries, the dense head) is taken off by tools/model_converters/publish_model.py.
# Each part can be switched off alone, and is measured so: tools/benchmarks/ablation.py. Not trained on COCO by us.
_base_ = 'e2emf_96m_coco.py'

model = dict(
    type='E2EMFWithAuxiliary',
    bbox_head=dict(
        # Queries that start from noisy ground truth and know their object (DN-DETR), in training.
        type='E2EMFTrainingHead',
        denoising=dict(
            label_noise_scale=0.5,
            box_noise_scale=1.0,
            group_cfg=dict(dynamic=True, num_dn_queries=40)),
        # Every query starts from a box, which each block refines. Eight heads look at its middle, its
        # four edges and around it; the weights are as many as with four.
        reference_boxes='pyramid',
        num_heads=8,
        # Short trainings from scratch do not overfit.
        dropout=0.0,
        # The score learns the IoU of its box.
        loss_cls=dict(_delete_=True, type='VarifocalQualityLoss', loss_weight=2.0)),
    # A dense head on the same features teaches the backbone at every position, in training.
    aux_weight=2.0,
    aux_neck=dict(type='MobileFormerFPN', arch='96m', out_channels=64, num_outs=3),
    aux_head=dict(
        type='FCOSHead',
        num_classes=80,
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,
        strides=(8, 16, 32),
        regress_ranges=((-1, 64), (64, 128), (128, 1e8)),
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

optim_wrapper = dict(
    constructor='MergedOptimWrapperConstructor',
    optimizer=dict(lr=1e-3),
    # No decay of what is no matrix: norms, biases, tokens, the table of queries.
    paramwise_cfg=dict(
        # Without the base's entry for the whole backbone, which would hide its norms and biases.
        _delete_=True,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            'backbone.tokens': dict(decay_mult=0.0),
            'query_embedding': dict(decay_mult=0.0),
            'in_proj_bias': dict(decay_mult=0.0),
        }))

max_epochs = 72
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR', by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs, eta_min=0,
        convert_to_iter_based=True),
]

# The average of the weights is what is validated, saved and tested.
custom_hooks = [
    dict(type='NumClassCheckHook'),
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=0.0002,
        gamma=2000,
        update_buffers=True,
        priority=49),
]
