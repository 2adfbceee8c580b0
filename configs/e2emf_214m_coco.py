# E2E-MF-214M with the head of 508M: the paper's heads for the smaller backbones are not known.
# Not trained by us.
_base_ = 'e2emf_508m_coco.py'

model = dict(backbone=dict(arch='214m'), bbox_head=dict(arch='214m'))
