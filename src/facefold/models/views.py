"""The views of an image that a prediction averages over (test-time augmentation)."""

from torch import Tensor
from torch.nn.functional import interpolate


def view_images(images: Tensor, view: str) -> Tensor:
    """Return images uint8 (N, H, W, 3) in a view, of the same dtype and shape: see `TTA_VIEWS`.

    plain; mirror, left and right exchanged; zoom, the centre without a sixteenth of the side at each border, resized by
    bilinear interpolation; zoom_mirror, the mirror of that.
    """
    if view.startswith("zoom"):
        images = _zoom(images)
    return images.flip(2) if view.endswith("mirror") else images


def _zoom(images: Tensor) -> Tensor:
    height, width = images.shape[1:3]
    top, left = height // 16, width // 16
    centre = images[:, top : height - top, left : width - left].permute(0, 3, 1, 2).float()
    return interpolate(centre, (height, width), mode="bilinear").round_().byte().permute(0, 2, 3, 1).contiguous()
