"""Seeds from names: randomness that depends on what is drawn, never on what was drawn before it."""

import hashlib


def derive_seed(*parts: object) -> int:
    """Derive an unsigned 32-bit seed from any parts, such as `derive_seed(seed, epoch, id)`; equal parts, same seed."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=4).digest(), "little")
