# A Mobile-Former and its classifier. Configs name the arch, twice: the head's width follows from it.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    # First-token is the classification form of the dynamic ReLU; its weights fit the detectors' form.
    backbone=dict(
        type='MobileFormer', dynamic_relu='first-token', out_indices=(3, ), out_tokens=True),
    head=dict(
        type='MobileFormerClsHead',
        num_classes=1000,
        # Not known from the paper: timm's default, with which its authors trained.
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))
