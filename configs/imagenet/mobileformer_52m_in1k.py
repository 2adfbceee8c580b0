# Mobile-Former-52M on ImageNet-1k, the paper's recipe. Paper: top-1 68.7 %. Not trained by us. Without RandAugment.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/mobileformer_mixup.py',
    '_base_/imagenet.py',
    '_base_/schedule_450e.py',
]

model = dict(backbone=dict(arch='52m'), head=dict(arch='52m'))
optim_wrapper = dict(optimizer=dict(lr=8e-4, weight_decay=0.10))
