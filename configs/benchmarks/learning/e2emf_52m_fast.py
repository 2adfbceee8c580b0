# The fast recipe on the smallest arch without grouped convolutions, which CPUs run slowly.
_base_ = '../../e2emf_96m_coco_fast.py'

model = dict(
    backbone=dict(arch='52m'),
    # Steps are faster than the 96m's, and the queries need many.
    dense_first=0.3,
    # Half an hour of a CPU has few steps, of which denoising queries would cost some.
    bbox_head=dict(arch='52m', denoising=None))
