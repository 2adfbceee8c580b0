# The paper's model and recipe, which the benchmark trains by the clock.
_base_ = '../../e2emf_508m_coco.py'
