# E2E-MF-508M on COCO. Paper: 43.1 AP on val2017 after 300 epochs from ImageNet weights, 41.4 GFLOPs
# (arXiv 2108.05895v3; the CVPR abstract implies 43.3). Not trained by us.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/coco_detection.py',
    '_base_/e2emf.py',
    '_base_/schedule_300e.py',
]

# ImageNet weights of Mobile-Former-508M: a local file, official or ours. The paper starts from them.
# None trains from scratch (backbone lr_mult 1, BatchNorm training); a file sets lr_mult 0.1 and
# norm_eval=True as in DETR, and every key of the backbone must match.
pretrained = None

model = dict(backbone=dict(arch='508m'), bbox_head=dict(arch='508m'))

# Statistics and averaging, as decided for this recipe:
# - BatchNorm sees 2 images per GPU (the head's M-F- blocks always, the backbone from scratch):
#   SyncBN over the GPUs. On CPUs tools/train.py drops it, since SyncBN exists on GPUs only.
# - The head's BatchNorm always trains: it starts from random weights, unlike the backbone's.
# - No EMA: neither the paper nor DETR reports one, and it would change the published recipe.
sync_bn = 'torch'
