"""How a stranger's ``config.json`` says that positions are turned, and how ours says it to him.

Newer files keep it together in ``rope_parameters``; older ones have ``rope_theta`` and, for scaling, ``rope_scaling`` with a ``type`` or ``rope_type``.
"""

import dataclasses
from typing import Any

from underhood.interop.fields import Fields
from underhood.nn.rope import RopeConfig, yarn_factor

KINDS = {"default": "default", "linear": "linear", "dynamic": "dynamic", "llama3": "llama3", "yarn": "yarn"}
TRAINED = ("yarn", "llama3")  # kinds whose trained context is the file's ``max_position_embeddings`` unless they name another
LEAST_BASE = 1.001  # at 1 every pair turns alike, below it the angles grow without bound


def read_rope(fields: Fields, context: int, *, base: float = 10_000.0) -> RopeConfig:
    """The rotation of a model of ``context`` positions. Raises ``CheckpointError`` for a kind or a field that ours does not compute."""
    rope = _parameters(fields)
    theta = fields.number("rope_theta", base, least=LEAST_BASE)
    own = rope.number("rope_theta", theta, least=LEAST_BASE)
    if own != theta and fields.get("rope_theta") is not None:
        raise fields.wrong("rope_theta", theta, f"{own:g}, as in {rope.where}")
    kind = rope.one_of("rope_type", KINDS, rope.get("type", "default"))
    if rope.get("type", kind) != kind:
        raise rope.wrong("type", rope.get("type"), f"{kind!r}, as rope_type")
    rope.must_be("partial_rotary_factor", 1, 1.0)
    made = _scaled(rope, kind, own, context)
    rope.finish(f"a rotation of kind {kind!r}", ignored=_not_read(kind))
    return made


def _parameters(fields: Fields) -> Fields:
    """The object with the rotation's fields. A file that has it under both names must say the same twice: which of them holds is not defined."""
    names = ("rope_parameters", "rope_scaling")
    for name in names:
        if not isinstance(fields.get(name, {}), dict):
            raise fields.wrong(name, fields.get(name), "an object")
    new, old = (fields.get(name) or {} for name in names)
    if new and old and _comparable(new, like=old) != _comparable(old, like=new):
        raise fields.wrong("rope_scaling", old, "what rope_parameters says")
    return Fields(new or old, f"{fields.where}: {names[not new and bool(old)]}")


def _comparable(values: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """The fields, with one word for the kind, and the base where ``like`` has it too. What is null says nothing."""
    said = {name: v for name, v in values.items() if v is not None and name != "type" and (name != "rope_theta" or name in like)}
    return {"rope_type": values.get("type", "default")} | said


def _factor(rope: Fields, kind: str, context: int) -> float:
    """How much longer the text is than the trained one. YaRN's may be null, as in transformers: then the two contexts in the file say it."""
    if kind == "yarn" and "factor" in rope.values and rope.get("factor") is None:
        return context / rope.count("original_max_position_embeddings", context)
    return rope.number("factor")


def _scaled(rope: Fields, kind: str, base: float, context: int) -> RopeConfig:
    """One kind's own fields."""
    if kind == "default":
        return RopeConfig(base=base)
    values: dict[str, Any] = {"kind": kind, "base": base, "factor": _factor(rope, kind, context)}
    if kind == "dynamic":
        values["original_context"] = context
    if kind in TRAINED:
        values["original_context"] = rope.count("original_max_position_embeddings", context)
    if kind == "llama3":
        values |= {name: rope.number(name) for name in ("low_freq_factor", "high_freq_factor")}
    if kind == "yarn":
        values |= {"beta_fast": rope.number("beta_fast", 32.0), "beta_slow": rope.number("beta_slow", 1.0), "truncate": rope.flag("truncate", True)}
        values["attention_factor"] = _attention_factor(rope, values["factor"])
    return RopeConfig(**values)


def _attention_factor(rope: Fields, factor: float) -> float:
    """What sines and cosines are multiplied with: given, or from two weights of the logarithm (as DeepSeek's files have it), or YaRN's own."""
    given, mscale, mscale_all = (rope.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is not None:
        return rope.number("attention_factor")
    if mscale and mscale_all:
        return (1 + rope.number("mscale") * (yarn_factor(factor) - 1)) / (1 + rope.number("mscale_all_dim") * (yarn_factor(factor) - 1))
    return yarn_factor(factor)


def _not_read(kind: str) -> tuple[str, ...]:
    """Fields that files of this kind carry and that nothing is computed from."""
    return {"dynamic": ("original_max_position_embeddings",), "linear": ("original_max_position_embeddings",), "default": ("factor",)}.get(kind, ())


def reach(rope: RopeConfig, context: int) -> int:
    """The longest text that the rotation is meant for, where the file's ``context`` is the trained one."""
    if rope.kind == "dynamic":
        return int(context * rope.factor)
    return max(context, int((rope.original_context or 0) * rope.factor)) if rope.kind == "yarn" else context


def write_rope(rope: RopeConfig) -> dict[str, Any]:
    """``rope_parameters`` for ``rope``: the fields that its kind has."""
    fields: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.base}
    if rope.kind == "default":
        return fields
    fields["factor"] = rope.factor
    if rope.kind in TRAINED:
        fields["original_max_position_embeddings"] = rope.original_context
    own = {"llama3": ("low_freq_factor", "high_freq_factor"), "yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate")}.get(rope.kind, ())
    values = {f.name: getattr(rope, f.name) for f in dataclasses.fields(rope)}
    return fields | {name: values[name] for name in own if values[name] is not None}
