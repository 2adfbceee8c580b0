# Mobile-Former-96M on ImageNet-1k, the paper's recipe. Paper: top-1 72.8 %. Not trained by us. Without mixup.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/mobileformer.py',
    '_base_/imagenet_randaugment.py',
    '_base_/schedule_450e.py',
]

model = dict(backbone=dict(arch='96m'), head=dict(arch='96m'))
optim_wrapper = dict(optimizer=dict(lr=8e-4, weight_decay=0.10))
