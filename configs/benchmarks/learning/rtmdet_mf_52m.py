# mmdet's RTMDet-tiny on our smallest backbone without grouped convolutions: what of a difference is the
# backbone's, and what the detector's.
_base_ = 'rtmdet_tiny.py'

custom_imports = dict(imports=['mmdet_mobileformer'], allow_failed_imports=False)

model = dict(
    backbone=dict(_delete_=True, type='MobileFormer', arch='52m', out_indices=(1, 2, 3)),
    neck=dict(in_channels=[24, 64, 96]))
