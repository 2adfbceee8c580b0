# RetinaNet on Mobile-Former-151M. Not trained by us.
_base_ = 'retinanet_mobileformer_508m_fpn_1x_coco.py'

model = dict(backbone=dict(arch='151m'), neck=dict(arch='151m'))
