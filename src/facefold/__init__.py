"""The library the steps are made of. Layers: data -> models -> training -> runs -> combine -> review, never back."""
