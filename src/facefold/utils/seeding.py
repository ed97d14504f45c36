"""Seeds from names: randomness that depends on what is drawn, never on what was drawn before it."""

import hashlib


def seed_of(*parts: object) -> int:
    """Return an unsigned 32 bit seed from any parts, e.g. `seed_of(seed, epoch, id)`; equal parts give equal seeds."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=4).digest(), "little")
