# E2E-MF with a small head of ours, for the small archs: the paper has none for them. Its nine blocks
# of width 256 would cost many times what these backbones do (README, Models), so the head keeps the
# three scales and the order 1/32 to 1/8 and shrinks to half the width and four blocks: two at 1/32,
# where a block is cheap and reads the whole picture, and one at each finer scale, since small
# objects are found there. 32 channels per head of attention and the ratio of the FFN stay.
_base_ = 'e2emf.py'

model = dict(
    bbox_head=dict(
        num_blocks=(2, 1, 1),
        embed_dims=128,
        num_heads=4,
        query_ffn_dims=512,
        side_ffn_dims=512))
