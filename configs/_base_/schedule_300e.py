# The paper's recipe: 300 epochs, AdamW 1e-4, a tenth of it after 200 epochs.
max_epochs = 300
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(
        type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[200], gamma=0.1)
]

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='MergedOptimWrapperConstructor',
    # Weight decay and clipping are not known from the paper: DETR's values.
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    # From scratch the backbone learns as fast as the head; `pretrained` changes lr_mult to 0.1.
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=1.0, decay_mult=1.0)}))

# 8 GPUs x 2 images; `tools/train.py --auto-scale-lr` scales lr to another total batch size.
auto_scale_lr = dict(enable=False, base_batch_size=16)
