"""The random state of a training step: the dropout's own generator and torch's global one, which a learner's part may draw from."""

import torch
from torch import Tensor, nn

from underhood.base.errors import CheckpointError
from underhood.nn.dropout import dropout_generator


def random_state(model: nn.Module) -> dict[str, Tensor]:
    """Every state that the next step can draw from, as bytes (uint8 tensors) by name.

    How: the state of torch's global generator, and that of the generator which the model's dropouts share, when there is one.
    """
    state = {"torch": torch.get_rng_state()}
    generator = dropout_generator(model)
    if generator is not None:
        state["dropout"] = generator.get_state()
    return state


def restore_random_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what ``random_state`` gave, so that the next draws are the same again. Raises ``CheckpointError`` when a state is missing."""
    generator = dropout_generator(model)
    needed = ["torch"] + (["dropout"] if generator is not None else [])
    for name in needed:
        if name not in state:
            raise CheckpointError(f"no random state {name!r} in the checkpoint")
    torch.set_rng_state(state["torch"])
    if generator is not None:
        generator.set_state(state["dropout"])
