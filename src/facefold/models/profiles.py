"""Profiles: which recipes a whole job trains, by the machine at hand; the first what a budget too short for all takes first.

The order of `cpu` is that of the accuracy out of fold, on the 18,000 faces, of the mean of the first, the first two, .. of them:
0.9334, 0.9371, 0.9378, 0.9395. Of the others nothing of the kind has been measured.
"""

PROFILES: dict[str, tuple[str, ...]] = {
    "demo": ("demo_cnn", "demo_lite0"),
    "cpu": ("lite0", "mobilenetv2", "cnn5", "lite0_96"),
    "regression": ("lite0_age",),
    "gpu": ("convnext_tiny", "vit_small", "efficientnetv2_s", "resnet50"),
    "articles": ("cnn3", "cnn5", "vgg16", "vgg16_bn", "vgg19", "resnet50_conv", "resnet50_scratch", "resnet101v2_gap"),
}
