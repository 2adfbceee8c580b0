# A small E2E-MF on the embedded data set: what `make demo` trains, in minutes on two cores.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/shapes_detection.py',
    '_base_/e2emf_edge_auxiliary.py',
]

pretrained = None

model = dict(
    # The smallest arch without grouped convolutions, which CPUs run slowly.
    backbone=dict(arch='52m'),
    bbox_head=dict(
        arch='52m',
        num_classes=6,
        # The pictures are small and simple, with at most 15 objects.
        query_ffn_dims=256,
        # At most 15 objects: one group of denoising queries, of which more would cost steps.
        denoising=dict(group_cfg=dict(num_dn_queries=20)),
        num_queries=49,
        reference_boxes=True,
        # The score learns the IoU of its box; with a beta of 2 it learns late, while boxes are poor still.
        loss_cls=dict(
            _delete_=True, type='QualityFocalLoss', use_sigmoid=True, beta=1.0, loss_weight=4.0)),
    # A backbone from scratch learns little from few queries in so short a time. It learns first what takes many
    # steps, without the queries, which make steps slow.
    aux_weight=5.0,
    dense_first=0.45,
    # Every map tells objects of all sizes, since the queries read one map after the other.
    aux_head=dict(num_classes=6, regress_ranges=((-1, 1e8),) * 3),
    test_cfg=dict(max_per_img=49))
# Queries that wait have no gradients.
find_unused_parameters = True

# tools/demo.py trains with two processes of one thread each, which suit so small a model.
# They make a batch of 16.
train_dataloader = dict(batch_size=8)
train_cfg = dict(type='MinutesTrainLoop', minutes=17, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='MergedOptimWrapperConstructor',
    # Steps are few: each is to teach as much as it can.
    optimizer=dict(type='MuonAdamW', lr=6e-3, weight_decay=1e-4),
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
# The average of the weights is what is validated, saved and tested. It is over about a tenth of the steps so far:
# over a fixed number, queries that join late would stand in it half learned where steps are many.
custom_hooks = [
    dict(type='NumClassCheckHook'),
    dict(
        type='EMAHook',
        ema_type='MomentumAnnealingEMA',
        momentum=1e-4,
        gamma=10,
        update_buffers=True,
        priority=49),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
