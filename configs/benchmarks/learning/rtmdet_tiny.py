# mmdet's RTMDet-tiny from scratch: no ImageNet weights, BatchNorm of each process by itself.
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'

norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(norm_cfg=norm_cfg, init_cfg=None),
    neck=dict(norm_cfg=norm_cfg),
    bbox_head=dict(norm_cfg=norm_cfg))

# mmdet's 0.004 at 256 images, scaled by the root of the batch of 16 as usual for AdamW.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
