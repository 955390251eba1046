"""``config.json`` of a stranger: each field is read once, checked, and what nobody has read is an error, for it might change what is computed."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from underhood.base.errors import CheckpointError

BOOKKEEPING = frozenset({  # what training, other tasks or the library itself need; nothing of it enters a logit
    "architectures", "transformers_version", "torch_dtype", "dtype", "initializer_range", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id",
    "sep_token_id", "decoder_start_token_id", "tokenizer_class", "attention_dropout", "_name_or_path", "name_or_path", "chunk_size_feed_forward", "id2label",
    "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task", "task_specific_params", "return_dict", "output_attentions",
    "output_hidden_states", "is_encoder_decoder", "is_decoder", "torchscript", "gradient_checkpointing", "prefix", "_attn_implementation",
    "_attn_implementation_autoset", "auto_map", "unsloth_version", "unsloth_fixed", "is_llama_config", "transformers.js_config",
    "use_bfloat16", "tf_legacy_loss", "tie_encoder_decoder", "_commit_hash",
})  # fmt: skip
GENERATION = frozenset({  # how to write, which older files say here too and transformers drops on reading
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens",
    "cache_config", "cache_implementation", "compile_config", "constraints", "continuous_batching_config", "disable_compile", "diversity_penalty",
    "do_sample", "dola_layers", "early_stopping", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff",
    "exponential_decay_length_penalty", "force_words_ids", "forced_bos_token_id", "forced_eos_token_id", "guidance_scale", "is_assistant", "length_penalty",
    "low_memory", "max_cache_len", "max_length", "max_matching_ngram_size", "max_new_tokens", "max_time", "min_length", "min_new_tokens", "min_p",
    "no_repeat_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences",
    "output_logits", "output_scores", "penalty_alpha", "prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values", "renormalize_logits",
    "repetition_penalty", "return_dict_in_generate", "sequence_bias", "speculation_type", "stop_strings", "suppress_tokens", "target_lookbehind",
    "temperature", "token_healing", "top_h", "top_k", "top_p", "typical_p", "use_mtp", "watermarking_config",
})  # fmt: skip
LARGEST = 10**9
LEAST_NUMBER, MOST_NUMBER = 1e-30, 1e12  # beyond these, sums and products of what is computed from a field can leave what a float holds
MOST_LAYERS = 10_000
LARGEST_FILE = 10_000_000  # bytes
DEEPEST = 50  # objects and lists within each other


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a stranger's file. Raises ``CheckpointError`` naming the file when it is missing, too large, damaged or no object."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointError("not a file", where=str(path))
        with open(path, "rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except OSError as error:
        problem = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise CheckpointError(problem, where=str(path), remedy="Fetch the model again.") from error
    if len(text) > LARGEST_FILE:
        raise CheckpointError("the file is too large", where=str(path), expected=f"at most {LARGEST_FILE:,} bytes")
    try:
        found = parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"not valid JSON ({error})", where=str(path), expected="UTF-8 without a byte order mark") from error
    if not isinstance(found, dict):
        raise CheckpointError("not an object", where=str(path))
    return found


def parse_json(text: bytes) -> Any:
    """What ``text`` says. Raises ``ValueError`` also for a name that stands twice in one object and for more than ``DEEPEST`` levels."""
    try:
        found = json.loads(text.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [found]
    for _ in range(DEEPEST + 1):
        level = [inner for value in level if isinstance(value, dict | list) for inner in (value.values() if isinstance(value, dict) else value)]
    if level:
        raise ValueError("nested too deeply")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


class Fields:
    """The fields of one ``config.json``. Each is taken by a method that checks it; ``finish`` names one that was never taken."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where, self.taken = values, where, set[str]()

    @classmethod
    def read(cls, path: Path) -> "Fields":
        """Raises ``CheckpointError`` for a file that is missing, damaged or no object."""
        return cls(read_object(path), str(path))

    def get(self, name: str, default: Any = None) -> Any:
        """The field as it is; None counts as not given."""
        self.taken.add(name)
        value = self.values.get(name)
        return default if value is None else value

    def count(self, name: str, default: int | None = None, *, most: int = LARGEST) -> int:
        """A whole number from 1 to ``most``."""
        value = self.get(name, default)
        if type(value) is not int or not 0 < value <= most:
            raise self.wrong(name, value, f"a whole number from 1 on, at most {most:,}")
        return value

    def number(self, name: str, default: float | None = None, *, least: float = LEAST_NUMBER, most: float = MOST_NUMBER) -> float:
        """A number from ``least`` to ``most``."""
        value = self.get(name, default)
        if type(value) not in (int, float) or not least <= value <= most:
            raise self.wrong(name, value, f"a number, {least:g} … {most:g}")
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
        """The error to raise for a field; ``value`` is None also where it is missing and has no default."""
        if value is None and name not in self.values:
            return CheckpointError("the field is missing", where=f"{self.where}: {name[:80]}", expected=expected)
        found = repr(value[:200]) if isinstance(value, str) else repr(value)[:200] if type(value) is not int or abs(value) < 10**100 else "a huge number"
        return CheckpointError(f"found {found}", where=f"{self.where}: {name[:80]}", expected=expected)

    def finish(self, family: str, ignored: Collection[str] = ()) -> None:
        """Raise ``CheckpointError`` for a field that says something, that nobody took and that is not mere bookkeeping."""
        known = self.taken | BOOKKEEPING | GENERATION | set(ignored)
        for name, value in self.values.items():
            if value is not None and name not in known:
                raise CheckpointError(f"a field that {family} does not have, so it may change what is computed", where=f"{self.where}: {name[:80]}")
