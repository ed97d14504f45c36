from facefold.models.recipe import parse_recipe
from facefold.training.machine import PROCESS_BYTES, estimate_training_memory
from tiny_fold import FROZEN, TINY


def test_memory_grows_with_the_batch_and_what_is_learned():
    small, wide, large, frozen_part = (
        estimate_training_memory(parse_recipe("r", settings, "r.toml"))
        for settings in (TINY, {**TINY, "size": [32, 64]}, {**TINY, "batch": 64}, {**FROZEN, "weights": "hub"})
    )
    assert PROCESS_BYTES < small < wide < large
    whole = {name: value for name, value in FROZEN.items() if name != "freeze_stages"}
    assert frozen_part < estimate_training_memory(parse_recipe("r", {**whole, "weights": "hub"}, "r.toml"))
