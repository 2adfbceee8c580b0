# With mixup of every batch.
_base_ = ['mobileformer.py']

model = dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.2)))
