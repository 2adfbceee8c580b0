# RetinaNet on Mobile-Former-508M, COCO, 12 epochs. Paper: 38.0 AP on val2017 from ImageNet weights
# (arXiv 2108.05895v3). Not trained by us.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/coco_detection_1x.py',
    '_base_/retinanet.py',
    '_base_/schedule_1x.py',
]

# ImageNet weights of the backbone: a local file, official or ours. The paper starts from them.
# None trains from scratch (BatchNorm training), for which 12 epochs are short; a file sets
# norm_eval=True, and every key of the backbone must match.
pretrained = None

model = dict(backbone=dict(arch='508m'), neck=dict(arch='508m'))
