# The paper's recipe at the size of the edge models, which the benchmark trains by the clock.
_base_ = '../../e2emf_96m_coco.py'
