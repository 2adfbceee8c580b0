# RetinaNet on Mobile-Former-294M. Not trained by us.
_base_ = 'retinanet_mobileformer_508m_fpn_1x_coco.py'

model = dict(backbone=dict(arch='294m'), neck=dict(arch='294m'))
