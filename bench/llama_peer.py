"""llama.cpp as a peer: our GPT-2's weights written as a GGUF file, and its C interface called step by step.

Needs ``llama-cpp-python`` (``pip`` compiles llama.cpp for this very processor: minutes) and ``gguf``; ``missing()`` says which is not there.
"""

import ctypes
import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from underhood.interop.gpt2 import their_tensors
from underhood.nn.gpt import GPT

PACKAGES = {"llama_cpp": "llama-cpp-python", "gguf": "gguf"}
NAMES = {  # the transformers layout's → GGUF's; Conv1D's matrices are stored (inputs, outputs) there and (outputs, inputs) here
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "h": "blk", "ln_1": "attn_norm", "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip


def missing() -> str:
    """Why llama.cpp cannot be measured here; empty where it can."""
    absent = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    return f"{' and '.join(absent)} not installed" if absent else ""


def gguf_name(theirs: str) -> str:
    """``transformer.h.3.attn.c_attn.weight`` → ``blk.3.attn_qkv.weight``."""
    name = theirs.removeprefix("transformer.")
    for old, new in sorted(NAMES.items(), key=lambda pair: -len(pair[0])):
        name = ".".join([""] + name.split(".") + [""]).replace(f".{old}.", f".{new}.").strip(".")
    return name


def write_gguf(path: Path, model: GPT, precision: str) -> None:
    """The model as GGUF without a vocabulary: matrices in float32 or bfloat16 (``fp32``, ``bf16``), vectors and positions in float32."""
    import gguf

    config, stored = model.config, gguf.GGMLQuantizationType.BF16 if precision == "bf16" else gguf.GGMLQuantizationType.F32
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.hidden_width)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for theirs, tensor in their_tensors(model).items():
        name, numbers = gguf_name(theirs), (tensor.T if ".c_" in theirs and tensor.ndim == 2 else tensor).float().contiguous().numpy()
        kind = stored if numbers.ndim == 2 and not name.startswith("position") else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """llama.cpp with our numbers and its defaults, which are fastest: keys and values in float16, flash attention, GELU from a float16 table.

    Hence its logits are its own, 0.3 % from ours in float32. One thread a thread of torch's.
    """

    compile_seconds = 0.0

    def __init__(self, model: GPT, precision: str) -> None:
        import llama_cpp.llama_cpp as c

        self.c, self.config, self.rows, self.past = c, model.config, 0, 0
        c.llama_backend_init()
        self.silent = c.llama_log_callback(lambda *_: None)  # kept here, as C holds no reference
        c.llama_log_set(self.silent, ctypes.c_void_p())
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "model.gguf"
            write_gguf(path, model, precision)
            self.model = c.llama_load_model_from_file(str(path).encode(), c.llama_model_default_params())
        if not self.model:
            raise RuntimeError("llama.cpp refuses the file")

    def prefill(self, ids: Tensor) -> Tensor:
        """(B, T) → logits (B, V) after the last token; forgets what was."""
        if len(ids) != self.rows:
            self._open(len(ids))
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)
        self.past = 0
        return self._run(ids)

    def step(self, tokens: Tensor) -> Tensor:
        """(B,) → logits (B, V)."""
        return self._run(tokens.unsqueeze(1))

    def _open(self, rows: int) -> None:
        options, most = self.c.llama_context_default_params(), rows * self.config.context
        options.n_ctx, options.n_batch, options.n_seq_max, self.rows = most, most, rows, rows
        options.n_threads = options.n_threads_batch = torch.get_num_threads()
        self.context = self.c.llama_init_from_model(self.model, options)
        self.batch = self.c.llama_batch_init(most, 0, 1)

    def _run(self, ids: Tensor) -> Tensor:
        batch, (B, T) = self.batch, ids.shape
        for i, token in enumerate(ids.flatten().tolist()):
            row, t = divmod(i, T)
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, self.past + t, 1, row, t == T - 1
        batch.n_tokens, self.past = B * T, self.past + T
        if self.c.llama_decode(self.context, batch):
            raise RuntimeError("llama.cpp could not decode")
        asked = (self.c.llama_get_logits_ith(self.context, (row + 1) * T - 1) for row in range(B))
        return torch.from_numpy(np.stack([np.ctypeslib.as_array(logits, shape=(self.config.vocab_size,)) for logits in asked]))
