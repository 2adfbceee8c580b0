# The second training of models/e2emf_52m_person, from the weights of the first (load_from): pictures without
# persons too, mosaics, and larger pictures, where small persons have more pixels.
_base_ = 'e2emf_52m_person.py'

size = (320, 320)
# Around the change of size, the first training's.
load, change = _base_.full_pipeline[:2], _base_.full_pipeline[4:]
resize = [
    dict(type='RandomResize', scale=size, ratio_range=(0.7, 1.7), keep_ratio=True),
    dict(type='RandomCrop', crop_type='absolute', crop_size=size, allow_negative_crop=True),
]
plain_pipeline = [*load, *resize, *change]
mosaic_pipeline = [
    *load,
    dict(type='CachedMosaic', img_scale=size, prob=0.5),
    *resize,
    *change,
]
train_dataloader = dict(
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=mosaic_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
train_cfg = dict(minutes=75, val_points=5, cut_at=[0.8])
custom_hooks = [
    *_base_.custom_hooks[:2],
    dict(type='ClockPipelineSwitchHook', switch_share=0.8, switch_pipeline=plain_pipeline),
]
