"""Averages of weights and of outputs, and the greedy choice of what goes into one."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key")


def average_states(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the uniform average of state dicts of one network, statistics of batch norm included.

    It is summed in float64 and has the states' dtypes. Tensors of other numbers, such as the count of batches, are
    those of the last state. Source: SWA (Izmailov et al. 2018), whose second pass for the statistics is left out.
    """
    return {
        name: torch.stack([state[name] for state in states]).double().mean(0).to(last.dtype)
        if last.is_floating_point()
        else last
        for name, last in states[-1].items()
    }


def greedy_average(
    losses: dict[Key, float], average_loss: Callable[[list[Key]], float], accepts: Callable[[float, float], bool]
) -> list[Key]:
    """Return the candidates whose average is taken, in the order of `losses`: those of the greedy soup.

    The candidates are tried from the least loss on. The first one is taken; each next one is if the loss of the average
    with it is accepted. Source: Wortsman et al., Model soups (2022), by a loss in place of the accuracy.

    Args:
        losses: Of each candidate alone.
        average_loss: Returns the loss of the average of some candidates, which come in the order of `losses`.
        accepts: accepts(loss, loss without the candidate), for example `operator.le`.
    """
    first, *others = sorted(losses, key=losses.get)
    taken, least = [first], losses[first]
    for candidate in others:
        tried = [key for key in losses if key in (*taken, candidate)]
        loss = average_loss(tried)
        if accepts(loss, least):
            taken, least = tried, loss
    return taken
