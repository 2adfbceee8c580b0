# The fast recipe on the largest edge model.
_base_ = '../../e2emf_96m_coco_fast.py'

# The dense head's sizes are those of pictures of 256 px.
model = dict(aux_head=dict(regress_ranges=((-1, 32), (32, 64), (64, 1e8))))
