"""What both processes have: tensors with their gradients, generators of random numbers, modules. Each side tells the other what it changed."""

import abc
import random
import sys
from typing import Any, Protocol

from underhood.workbench.wire import Blobs, Lost


class Codec(Protocol):
    """Whoever turns values into JSON and back."""

    def encode(self, value: Any, blobs: Blobs) -> Any:
        """``value`` as JSON, its arrays in ``blobs``."""

    def decode(self, value: Any, blobs: Blobs) -> Any:
        """The value again."""


def loaded_torch() -> Any:
    return sys.modules.get("torch") if hasattr(sys.modules.get("torch"), "Tensor") else None


class Cell(abc.ABC):
    """A value that both ends have, and what of it the other end knows."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.keep()

    @abc.abstractmethod
    def state(self) -> Any:
        """What is compared."""

    def keep(self) -> None:
        """Note that the other end knows the value as it is."""
        self.known = self.state()

    def changed(self) -> bool:
        """Whether the other end must be told."""
        return bool(self.state() != self.known)

    def write(self, peer: Codec, blobs: Blobs) -> Any:
        """The value's state as JSON."""
        self.keep()
        return peer.encode(self.known, blobs)

    @abc.abstractmethod
    def read(self, peer: Codec, state: Any, blobs: Blobs) -> None:
        """Take the state that the other end wrote."""


class TensorCell(Cell):
    """A tensor and its ``grad``."""

    def state(self) -> Any:
        value = self.value
        return (value._version, None) if not _learns(value) else (value.detach().clone(), None if value.grad is None else value.grad.detach().clone())

    def changed(self) -> bool:
        data, grad = self.known
        if not _learns(self.value) or isinstance(data, int):
            return not isinstance(data, int) or bool(self.value._version != data)
        now = self.value.grad
        return not _alike(self.value.detach(), data) or (now is None) != (grad is None) or (now is not None and not _alike(now, grad))

    def write(self, peer: Codec, blobs: Blobs) -> Any:
        self.keep()
        state = tensor_bytes(self.value, blobs)
        if _learns(self.value) and self.value.grad is not None:
            state["grad"] = tensor_bytes(self.value.grad, blobs)
        return state

    def read(self, peer: Codec, state: Any, blobs: Blobs) -> None:
        import torch

        data = bytes_tensor(state, blobs)
        with torch.no_grad():
            if data.shape == self.value.shape and data.dtype == self.value.dtype:
                if not _alike(self.value.detach(), data):
                    self.value.copy_(data)
            else:
                self.value.data = data
        if _learns(self.value):
            self.value.grad = bytes_tensor(state["grad"], blobs) if "grad" in state else None
        self.keep()


class GeneratorCell(Cell):
    """A generator of random numbers: Python's, numpy's or torch's."""

    def state(self) -> Any:
        kind = generator_kind(self.value)
        if kind == "python":
            return self.value.getstate()
        return repr(self.value.bit_generator.state) if kind == "numpy" else tensor_raw(self.value.get_state())

    def write(self, peer: Codec, blobs: Blobs) -> Any:
        self.keep()
        kind = generator_kind(self.value)
        return peer.encode(self.value.bit_generator.state if kind == "numpy" else self.known, blobs)

    def read(self, peer: Codec, state: Any, blobs: Blobs) -> None:
        found, kind = peer.decode(state, blobs), generator_kind(self.value)
        if kind == "python":
            self.value.setstate(found)
        elif kind == "numpy":
            self.value.bit_generator.state = found
        else:
            import torch

            self.value.set_state(torch.frombuffer(bytearray(found), dtype=torch.uint8))
        self.keep()


class ModuleCell(Cell):
    """A module of the judge's: whether it is training (its tensors are cells of their own)."""

    def state(self) -> Any:
        return self.value.training

    def read(self, peer: Codec, state: Any, blobs: Blobs) -> None:
        self.value.training = bool(state)
        self.keep()


class GlobalTorch:
    """torch's global generator, which other people's layers draw from, as one more generator that both ends have."""

    def get_state(self) -> Any:
        """Its state."""
        return loaded_torch().get_rng_state()

    def set_state(self, state: Any) -> None:
        """Put its state."""
        loaded_torch().set_rng_state(state)


def _learns(value: Any) -> bool:
    return bool(value.requires_grad and value.is_leaf)


def _alike(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bytes(tensor_raw(a)) == bytes(tensor_raw(b))


def generator_kind(value: Any) -> str | None:
    if isinstance(value, random.Random):
        return "python"
    numpy, torch = sys.modules.get("numpy"), loaded_torch()
    if numpy is not None and isinstance(value, numpy.random.Generator):
        return "numpy"
    return "torch" if torch is not None and isinstance(value, (torch.Generator, GlobalTorch)) else None


def new_generator(kind: str) -> Any:
    if kind == "python":
        return random.Random()
    if kind == "numpy":
        import numpy as np

        return np.random.default_rng()
    import torch

    return torch.Generator()


def tensor_raw(value: Any) -> bytes:
    """The bytes of a tensor of any dtype."""
    import torch

    flat = value.detach().cpu().contiguous().reshape(-1)
    raw: bytes = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return raw


def tensor_bytes(value: Any, blobs: Blobs) -> dict[str, Any]:
    """Shape and dtype of a tensor; its bytes go to ``blobs``."""
    blobs.append(tensor_raw(value))
    return {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "blob": len(blobs) - 1}


def bytes_tensor(state: dict[str, Any], blobs: Blobs) -> Any:
    """The tensor that ``tensor_bytes`` wrote."""
    import torch

    dtype, raw = dtype_named(state["dtype"]), blobs[state["blob"]]
    if not raw and 0 in state["shape"]:
        return torch.empty(state["shape"], dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(state["shape"])


def dtype_named(name: Any) -> Any:
    """torch's type of that name. Raises ``Lost`` for anything else."""
    import torch

    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype):
        raise Lost("the process wrote a tensor of no known type")
    return dtype
