"""The two small CNNs of the competition article, trained from scratch."""

from itertools import pairwise

from torch import Tensor, nn

from facefold.data.preprocessing import Shape
from facefold.utils.errors import InputError


class _Cnn(nn.Module):
    num_features = 256

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.blocks(x))


class Cnn3(_Cnn):
    """Three convolutions (7x7 with stride 2, 5x5, 5x5), each with ReLU and 2x2 max pooling, then a dense layer of 256.

    The article's first model: shallow, with large kernels and without batch norm. Maps float (N, 3, H, W) to
    features float (N, 256).
    """

    def __init__(self, width: int, shape: Shape, dropout: float):
        super().__init__()
        if min(shape) < 16:
            raise InputError(f"cnn3 halves the image four times: size = {shape} should be 16 or more")
        layers = []
        for in_channels, out_channels, kernel, stride in (
            (3, width, 7, 2),
            (width, 2 * width, 5, 1),
            (2 * width, 4 * width, 5, 1),
        ):
            layers += [
                nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        self.blocks = nn.Sequential(*layers)
        cells = ((shape.height + 1) // 16) * ((shape.width + 1) // 16)  # the first convolution rounds up
        self.dense = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width * cells, 256), nn.ReLU(inplace=True)
        )


class Cnn5(_Cnn):
    """Five 3x3 convolutions, each with batch norm, ReLU and 2x2 max pooling, then a dense layer of 256.

    The article's second model (five stacked 3x3 convolutions with batch norm, dense layers, dropout). Maps float
    (N, 3, H, W) to features float (N, 256).
    """

    def __init__(self, width: int, shape: Shape, dropout: float):
        super().__init__()
        if min(shape) < 32:
            raise InputError(f"cnn5 halves the image five times: size = {shape} should be 32 or more")
        channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.blocks = nn.Sequential(
            *[
                nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(inplace=True),
                    nn.MaxPool2d(2),
                )
                for in_channels, out_channels in pairwise(channels)
            ]
        )
        cells = (shape.height // 32) * (shape.width // 32)
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(channels[-1] * cells, 256, bias=False),
            nn.BatchNorm1d(256),
            nn.ReLU(inplace=True),
        )


CNNS = {"cnn3": Cnn3, "cnn5": Cnn5}
