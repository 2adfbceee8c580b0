# mmdet's YOLOX-tiny from scratch, at one input size as everyone.
_base_ = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'

model = dict(data_preprocessor=dict(batch_augments=None))

# mmdet's 0.01 at 64 images, scaled to the batch of 16.
optim_wrapper = dict(optimizer=dict(lr=0.0025))
