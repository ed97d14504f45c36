"""The views of an image."""

import numpy as np
import torch

from facefold.models.views import view_images

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))


def test_a_zoom_enlarges_the_centre():
    """Of a ramp of 8 per pixel: 28 of 32 columns are stretched over 32, from the third one on."""
    ramp = (8 * torch.arange(32)).to(torch.uint8)[None, None, :, None].expand(2, 32, 32, 3)
    source = (np.arange(32) + 0.5) * 28 / 32 - 0.5
    expected = np.round(8 * (2 + source.clip(0, 27)))
    assert (view_images(ramp, "zoom").numpy() == expected[:, None]).all()
    assert (view_images(ramp.transpose(1, 2), "zoom").numpy() == expected[:, None, None]).all()


def test_views_are_images_of_the_same_kind():
    assert view_images(PIXELS, "plain") is PIXELS
    assert torch.equal(view_images(PIXELS, "mirror"), PIXELS.flip(2))
    zoom = view_images(PIXELS, "zoom")
    assert zoom.dtype == torch.uint8 and zoom.shape == PIXELS.shape and zoom.is_contiguous()
    assert torch.equal(view_images(PIXELS, "zoom_mirror"), zoom.flip(2))
    white = torch.full_like(PIXELS, 255)
    assert torch.equal(view_images(white, "zoom"), white)


def test_a_view_of_an_image_does_not_depend_on_its_batch():
    assert all(torch.equal(view_images(PIXELS, "zoom")[[row]], view_images(PIXELS[[row]], "zoom")) for row in range(3))
