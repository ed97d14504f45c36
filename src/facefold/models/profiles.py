"""Profiles: which recipes a whole job trains, by the machine at hand."""

PROFILES: dict[str, tuple[str, ...]] = {
    "demo": ("demo_cnn", "demo_lite0"),
    "cpu": ("lite0", "lite0_96", "mobilenetv2", "cnn5"),
    "regression": ("lite0_age",),
    "gpu": ("convnext_tiny", "vit_small", "efficientnetv2_s", "resnet50"),
}
