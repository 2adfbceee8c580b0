# Mobile-Former-151M on ImageNet-1k, the paper's recipe. Paper: top-1 75.2 %. Not trained by us.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/mobileformer_mixup.py',
    '_base_/imagenet_randaugment_erasing.py',
    '_base_/schedule_450e.py',
]

model = dict(backbone=dict(arch='151m'), head=dict(arch='151m'))
optim_wrapper = dict(optimizer=dict(lr=9e-4, weight_decay=0.10))
