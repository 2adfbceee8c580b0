# Ablation of E2E-MF-508M: all blocks share the queries' learned position, as in DETR.
_base_ = '../e2emf_508m_coco.py'

model = dict(bbox_head=dict(position='shared'))
