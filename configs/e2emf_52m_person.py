# E2E-MF-52M that finds persons: what trained models/e2emf_52m_person, in hours of two CPU cores.
_base_ = 'e2emf_96m_coco_fast.py'

classes = ('person',)
model = dict(
    backbone=dict(arch='52m'),
    # Denoising queries would cost steps, of which a CPU has few.
    bbox_head=dict(arch='52m', num_classes=1, denoising=None),
    aux_head=dict(num_classes=1),
    dense_first=0.4)

# Half of a picture's area at first, whose steps take half the time. Crops of pictures that are enlarged: few
# thousands serve for many epochs.
small_pipeline, full_pipeline = [
    [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='RandomResize', scale=size, ratio_range=(0.9, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_type='absolute', crop_size=size, allow_negative_crop=True),
        dict(type='YOLOXHSVRandomAug'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ] for size in [(176, 176), (256, 256)]
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    # Crops show persons larger than whole pictures of 256 px do.
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

# tools/dist_train.sh starts two processes of one thread each, which make a batch of 16.
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    batch_sampler=None,
    dataset=dict(
        metainfo=dict(classes=classes),
        # Pictures without persons tell a backbone from scratch little.
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=small_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(metainfo=dict(classes=classes), pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(
    _delete_=True, type='MinutesTrainLoop', minutes=110, val_points=8, cut_at=[0.3])
# The loop sets the learning rate.
param_scheduler = []
default_hooks = dict(checkpoint=dict(save_param_scheduler=False))
custom_hooks = [
    dict(type='NumClassCheckHook'),
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=0.001,
        gamma=1000,
        update_buffers=True,
        priority=49),
    dict(type='ClockPipelineSwitchHook', switch_share=0.3, switch_pipeline=full_pipeline),
]
