# E2E-MF-96M with a recipe that learns many times faster than the paper's (ours); configs/e2emf_96m_coco.py
# is the paper's at the same size. Inference is E2EMF's: 100 queries, no NMS, no parameter more. What stands
# here for training only (denoising queries, the dense head) is taken off by tools/model_converters/publish_model.py.
# Each part can be switched off alone; tools/benchmarks/ablation.py does so with the demo's recipe, which has the
# same parts. Not trained on COCO by us.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/coco_edge.py',
    '_base_/e2emf_edge_auxiliary.py',
    '_base_/schedule_300e.py',
]

# As in e2emf_96m_coco.py, and sync_bn below.
pretrained = None

model = dict(
    backbone=dict(arch='96m'),
    bbox_head=dict(
        arch='96m',
        # Every query starts from a box, which each block refines.
        reference_boxes='pyramid',
        # Reading boxes costs parameters: fewer than are saved here.
        query_ffn_dims=480,
        # The score learns the IoU of its box; with a beta of 2 it learns late, while boxes are poor still.
        loss_cls=dict(
            _delete_=True, type='QualityFocalLoss', use_sigmoid=True, beta=1.0, loss_weight=4.0)),
    # A backbone from scratch learns little from few queries in so short a time. It learns first what takes many
    # steps, without the queries, which make steps slow; a training that starts from a detector does not wait.
    aux_weight=5.0,
    dense_first=0.45,
    # Every map tells objects of all sizes, since the queries read one map after the other.
    aux_head=dict(num_classes=80, regress_ranges=((-1, 1e8),) * 3))

sync_bn = 'torch'
# Queries that wait have no gradients.
find_unused_parameters = True

optim_wrapper = dict(
    # Steps of matrices are made orthogonal: each teaches more.
    optimizer=dict(type='MuonAdamW', lr=3e-3),
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
