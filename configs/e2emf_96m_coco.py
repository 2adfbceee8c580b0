# E2E-MF-96M, the largest of the edge family (ours), tested at 640 px. Not trained by us.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/coco_edge.py',
    '_base_/e2emf_edge.py',
    '_base_/schedule_300e.py',
]

# ImageNet weights of Mobile-Former-96M, as in e2emf_508m_coco.py.
pretrained = None

model = dict(backbone=dict(arch='96m'), bbox_head=dict(arch='96m'))

# As in e2emf_508m_coco.py.
sync_bn = 'torch'
