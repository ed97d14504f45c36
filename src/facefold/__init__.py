"""The library the steps are made of. The layers are those of import-linter's contract in pyproject.toml."""

import os

# At its first import albumentations asks the network for its version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
