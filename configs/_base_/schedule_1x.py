# 1x: 12 epochs, a tenth of the learning rate after 8 and again after 11.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]

# The paper's optimizer is not known: this is the choice of later RetinaNets on light backbones.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='MergedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4))
# ImageNet weights of the backbone learn as fast as the rest, as is usual for RetinaNet; DETR's
# tenth is the default of `pretrained`.
pretrained_lr_mult = 1.0

# 8 GPUs x 2 images; `tools/train.py --auto-scale-lr` scales lr to another total batch size.
auto_scale_lr = dict(enable=False, base_batch_size=16)
