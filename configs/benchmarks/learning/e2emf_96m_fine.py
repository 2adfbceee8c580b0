# The benchmark's fast recipe on a larger arch, for machines on which half an hour has thousands of steps. As in
# e2emf_96m_demo.py, the finest scale, where small objects are found, has a block more and the coarsest one less.
_base_ = 'e2emf_52m_fast.py'

model = dict(
    backbone=dict(arch='96m'), bbox_head=dict(arch='96m', num_blocks=(1, 1, 2)))
