"""The library the steps are made of. Layers: data -> models -> training -> runs -> combine -> review, never back."""

import os

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # albumentations asks the network for its version when it is imported first
