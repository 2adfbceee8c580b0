# E2E-MF-26M of the edge family (ours), tested at 320 px. Not trained by us.
_base_ = 'e2emf_96m_coco.py'

model = dict(backbone=dict(arch='26m'), bbox_head=dict(arch='26m'))

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (320, 320)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
