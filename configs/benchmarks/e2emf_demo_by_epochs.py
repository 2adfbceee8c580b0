# The demo's recipe in epochs instead of minutes: as many steps on every machine and in every precision.
_base_ = '../e2emf_demo.py'

# All of the model learns in every step that is compared.
model = dict(dense_first=0)
find_unused_parameters = False

max_epochs = 6
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(
        type='CosineAnnealingLR', by_epoch=True, begin=0, end=max_epochs, T_max=max_epochs, eta_min=0,
        convert_to_iter_based=True),
]
