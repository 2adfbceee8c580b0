# The fast recipe on the smallest arch without grouped convolutions, which CPUs run slowly.
_base_ = '../../e2emf_96m_coco_fast.py'

model = dict(
    backbone=dict(arch='52m'),
    # Denoising queries cost more steps than they are worth in half an hour.
    bbox_head=dict(arch='52m', denoising=None))
