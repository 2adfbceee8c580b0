"""From a trained model to a faster one (fold.py), and to a file that runs without PyTorch.

The exported file
=================
One ONNX file (OpenVINO's IR is made from it and carries the same text) with one input and three outputs:

=========  ========  ============  ============================================================================================
name       type      shape         content
=========  ========  ============  ============================================================================================
`images`   float32   (N, 3, H, W)  RGB, 0 to 255, resized and, in a batch, of one size. Mean and standard deviation are applied
                                   inside the graph; a file exported with `--no-normalize` expects `(x - mean) / std` instead
`boxes`    float32   (N, Q, 4)     x1, y1, x2, y2 divided by the input's width and height, clipped to 0..1
`scores`   float32   (N, Q)        0 to 1, best first
`labels`   int64     (N, Q)        index into the metadata's `classes`
=========  ========  ============  ============================================================================================

`N`, `H` and `W` are free unless the file was exported with a fixed size. There is no mask: every image fills its input, so the
images of a batch have one size, and boxes in the picture's own pixels are `boxes * (width, height, width, height)` of the
original picture. Nothing is suppressed afterwards: E2E-MF needs no NMS.

`metadata_props["mobileformer"]` of the ONNX file is a JSON object:

    {"version": "1.2.3",                        the package that exported it
     "format": 1,                               of this description
     "config": "e2emf_508m_coco",               the config file's name
     "classes": ["person", ...],
     "resize": {"keep_ratio": true, "scale": [1333, 800]},     MMDetection's Resize of the test pipeline: the longer side at
                                                most 1333, the shorter at most 800; keep_ratio false: scale is [width, height]
     "pad_divisor": 1,                          the sides are multiples of this (1: any size)
     "input": {"channel_order": "RGB", "range": 255, "normalized_inside": true, "mean": [...], "std": [...]},
     "score_threshold": 0.3}                    a good default for drawing; the outputs are not filtered
"""
