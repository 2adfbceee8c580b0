# Ablation of E2E-MF-508M: the backbone's dynamic ReLU reads the first token alone, as in ImageNet
# classification.
_base_ = '../e2emf_508m_coco.py'

model = dict(backbone=dict(dynamic_relu='first-token'))
