# A small E2E-MF on the embedded data set: what `make demo` trains, in minutes on two cores.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/shapes_detection.py',
    '_base_/e2emf.py',
]

pretrained = None

model = dict(
    # The smallest arch without grouped convolutions, which CPUs run slowly.
    backbone=dict(arch='52m'),
    bbox_head=dict(
        arch='52m',
        num_classes=6,
        # Half the width and five blocks in place of nine: the pictures are small and simple.
        num_blocks=(2, 1, 1),
        embed_dims=128,
        query_ffn_dims=256,
        side_ffn_dims=512,
        num_queries=50,
        # Too short a training to overfit.
        dropout=0.0),
    test_cfg=dict(max_per_img=50))

max_epochs = 20
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=1.0, decay_mult=1.0)}))
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
