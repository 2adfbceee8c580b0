# E2E-MF-52M of the edge family (ours), tested at 480 px. Not trained by us.
_base_ = 'e2emf_96m_coco.py'

model = dict(backbone=dict(arch='52m'), bbox_head=dict(arch='52m'))

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (480, 480)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
