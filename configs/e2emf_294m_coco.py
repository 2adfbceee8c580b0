# E2E-MF-294M with the head of 508M: the paper's heads for the smaller backbones are not known.
# Not trained by us.
_base_ = 'e2emf_508m_coco.py'

model = dict(backbone=dict(arch='294m'), bbox_head=dict(arch='294m'))
