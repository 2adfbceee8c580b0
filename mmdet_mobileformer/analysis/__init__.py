"""What one looks at beside a model: its cost (flops), its training (curves), its boxes (pictures).

No model imports anything from here. The modules are imported one by one, so that counting needs no
plotting library.
"""
