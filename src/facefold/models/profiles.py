"""Profiles: which recipes a whole job trains, by the machine at hand; the first what a budget too short for all takes first.

The order of `cpu` is that of the accuracy out of fold, on the 18,000 faces, of the mean of the first, the first two, .. of them:
0.9402, 0.9419, 0.9426, 0.9431. They were chosen on these rows among six recipes, as what is most accurate of all that two cores train in
about 100 minutes. Of the other profiles nothing of the kind has been measured.
"""

PROFILES: dict[str, tuple[str, ...]] = {
    "demo": ("demo_cnn", "demo_lite0"),
    "cpu": ("lite0_160", "lite0_96_aligned", "lite0", "cnn5"),
    "regression": ("lite0_age",),
    "gpu": ("convnext_tiny", "vit_small", "efficientnetv2_s", "resnet50"),
    "articles": ("cnn3", "cnn5", "vgg16", "vgg16_bn", "vgg19", "resnet50_conv", "resnet50_scratch", "resnet101v2_gap"),
}
