# RetinaNet on Mobile-Former-26M. Not trained by us.
_base_ = 'retinanet_mobileformer_508m_fpn_1x_coco.py'

model = dict(backbone=dict(arch='26m'), neck=dict(arch='26m'))
