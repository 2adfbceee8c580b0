# Mobile-Former-26M on ImageNet-1k, the paper's recipe. Paper: top-1 64.0 %. Not trained by us.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/mobileformer_mixup.py',
    '_base_/imagenet_randaugment.py',
    '_base_/schedule_450e.py',
]

model = dict(backbone=dict(arch='26m'), head=dict(arch='26m'))
optim_wrapper = dict(optimizer=dict(lr=8e-4, weight_decay=0.08))
