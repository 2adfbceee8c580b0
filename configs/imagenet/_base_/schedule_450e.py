# 450 epochs of AdamW with a cosine schedule, 8 GPUs x 128 images.
max_epochs = 450
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type='OptimWrapper',
    # Configs give lr and weight_decay. None of it on norms and biases, as in timm.
    optimizer=dict(type='AdamW'),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))

# The warm-up and the last learning rate are not known from the paper: timm's defaults.
warmup = 3
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        by_epoch=True,
        begin=0,
        end=warmup,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=warmup,
        end=max_epochs,
        convert_to_iter_based=True),
]

# `--auto-scale-lr` scales lr to another total batch size.
auto_scale_lr = dict(base_batch_size=1024)
