# Mobile-Former-294M on ImageNet-1k, the paper's recipe. Paper: top-1 77.9 %. Not trained by us.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/mobileformer_mixup.py',
    '_base_/imagenet_randaugment_erasing.py',
    '_base_/schedule_450e.py',
]

model = dict(backbone=dict(arch='294m'), head=dict(arch='294m'))
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.20))
