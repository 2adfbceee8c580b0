# Ablation of E2E-MF-508M: the coarsest scale alone. All nine blocks stay, at 1/32.
_base_ = '../e2emf_508m_coco.py'

model = dict(
    backbone=dict(out_indices=(3,)),
    bbox_head=dict(scales=(32,), num_blocks=(9,), sides=('transformer',)))
