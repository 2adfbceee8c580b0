# mmdet's RetinaNet with ResNet-18 from scratch: nothing frozen, BatchNorm training.
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'

model = dict(backbone=dict(frozen_stages=-1, norm_eval=False, init_cfg=None))

# mmdet's 0.01 is for 16 images. The clipping keeps the first steps from scratch finite.
optim_wrapper = dict(clip_grad=dict(max_norm=10, norm_type=2))
