"""``config.json`` of a stranger: each field is read once, checked, and what nobody has read is an error, for it might change what is computed."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from underhood.base.errors import CheckpointError, DataError
from underhood.base.files import read_json

BOOKKEEPING = frozenset({  # what training, other tasks or the library itself need; nothing of it enters a logit
    "architectures", "transformers_version", "torch_dtype", "dtype", "initializer_range", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
    "sep_token_id", "decoder_start_token_id", "tokenizer_class", "attention_dropout", "_name_or_path", "name_or_path", "chunk_size_feed_forward", "id2label",
    "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task", "task_specific_params", "return_dict", "output_attentions",
    "output_hidden_states", "is_encoder_decoder", "is_decoder", "torchscript", "gradient_checkpointing", "prefix", "_attn_implementation",
    "_attn_implementation_autoset", "auto_map", "unsloth_version", "unsloth_fixed", "is_llama_config", "rope_interleaved", "transformers.js_config",
})  # fmt: skip
LARGEST = 10**9


class Fields:
    """The fields of one ``config.json``. Each is taken by a method that checks it; ``finish`` names one that was never taken."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where, self.taken = values, where, set[str]()

    @classmethod
    def read(cls, path: Path) -> "Fields":
        """Raises ``CheckpointError`` for a file that is missing, damaged or no object."""
        try:
            values = read_json(path)
        except DataError as error:
            raise CheckpointError(error.problem, where=error.where) from error
        if not isinstance(values, dict):
            raise CheckpointError("not an object", where=str(path))
        return cls(values, str(path))

    def get(self, name: str, default: Any = None) -> Any:
        """The field as it is; None counts as not given."""
        self.taken.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number from 1 on."""
        value = self.get(name, default)
        if type(value) is not int or not 0 < value < LARGEST:
            raise self.wrong(name, value, "a whole number from 1 on")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number more than 0."""
        value = self.get(name, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self.wrong(name, value, "a number, more than 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.get(name, default)
        if type(value) is not bool:
            raise self.wrong(name, value, "true or false")
        return value

    def one_of(self, name: str, known: Mapping[str, str], default: str) -> str:
        """Our word for one of ``known``."""
        value = self.get(name, default)
        if not isinstance(value, str) or value not in known:
            raise self.wrong(name, value, ", ".join(known))
        return known[value]

    def must_be(self, name: str, *allowed: Any) -> None:
        """The field is absent, null, or one of ``allowed``: ours computes nothing else."""
        value = self.get(name)
        if value is not None and value not in allowed:
            raise self.wrong(name, value, " or ".join(map(repr, allowed)) if allowed else "nothing")

    def wrong(self, name: str, value: Any, expected: str) -> CheckpointError:
        """The error to raise for a field."""
        return CheckpointError(
            f"found {str(value)[:200]!r}" if isinstance(value, str) else f"found {value!r}"[:220], where=f"{self.where}: {name}", expected=expected
        )

    def finish(self, family: str, ignored: Collection[str] = ()) -> None:
        """Raise ``CheckpointError`` for a field that nobody took and that is not mere bookkeeping."""
        for name in self.values:
            if name not in self.taken and name not in BOOKKEEPING and name not in ignored:
                raise CheckpointError(f"a field that {family} does not have, so it may change what is computed", where=f"{self.where}: {name}")
