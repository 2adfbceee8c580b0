# The demo's recipe on a larger arch, for machines on which a quarter of an hour has thousands of steps. What is missing
# there is exact boxes, of small objects most: a block more at 1/8, where they are found, and one less at 1/32.
_base_ = '../../e2emf_demo.py'

model = dict(
    backbone=dict(arch='96m'), bbox_head=dict(arch='96m', num_blocks=(1, 1, 2)))
