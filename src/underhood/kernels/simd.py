"""The inner loop of ``matvec``, written in LLVM's vectors of sixteen float32: a tile of dot products between rows of two matrices.

numba compiles loops over single numbers and leaves it to LLVM to join them, in an order of LLVM's choice. Here the order of a sum is written down: lane l
adds products l, l + 16, l + 32, …, one after the other, and then the upper half of the lanes is added onto the lower until one is left. So a sum has the
same bits in a tile of any size; a processor with narrower registers gets the vectors cut to fit.

A matrix holds float32, or bfloat16 as ``uint16``: the upper half of a float32's bits, so that a shift widens it.
"""

# mypy: ignore-errors

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from underhood.base.lock import locked

LANES, LINE = 16, 64  # numbers in a vector: one AVX-512 register, two of AVX2, four of NEON; bytes that memory gives at once
F32, I32, BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(8).as_pointer()
VECTOR, INTS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
AT_ONCE = 4  # vectors that ``add_rows`` holds in registers
STEPS = 2  # vectors a turn of the loop: one line of bfloat16, two of float32
SUMS = {"reassoc", "contract", "nsz"}  # fastmath for other loops: sums may be regrouped, NaN and infinity stay


def inner(fastmath: Any = False) -> Callable[[Callable[..., Any]], Any]:
    """``njit`` for what other kernels call. numba gives a function that does not state ``fastmath`` that of whoever calls it first."""
    return njit(fastmath=fastmath)


def compiled(*, parallel: bool = False, fastmath: Any = False) -> Callable[[Callable[..., Any]], Any]:
    """``njit`` with the interpreter's lock released and the code kept on disk, in memory only where nothing can be written."""

    def decorate(function: Callable[..., Any]) -> Any:
        options = {"nogil": True, "parallel": parallel, "fastmath": fastmath}
        try:
            kept = njit(cache=True, **options)(function)
            folder = Path(kept.stats.cache_path)
            forget_older(folder, function)
        except (RuntimeError, OSError):
            return njit(**options)(function)
        return by_turns(kept, folder / "kernels.lock")

    return decorate


def by_turns(kernel: Any, lock: Path) -> Any:
    """``kernel``, compiled by one process at a time: numba's index of kept code has no lock, so two could get each other's. The second finds the first's."""
    compile = kernel.compile

    def alone(signature):
        with locked(lock):
            return compile(signature)

    kernel.compile = alone
    return kernel


def forget_older(cache: Path, function: Callable[..., Any]) -> None:
    """numba compiles anew when the function's file has changed; this sees to the files that it calls too, which all stand in this folder."""
    changed = max(file.stat().st_mtime for file in Path(__file__).parent.glob("*.py"))
    for kept in cache.glob(f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}-*.nb[ic]"):
        if kept.stat().st_mtime < changed:
            kept.unlink(missing_ok=True)


def tile(rows: int, outputs: int, ahead: int) -> Any:
    """An intrinsic ``sums(x, weight, out, row, o, column, next)``: out[row + r, column + k] = x[row + r] · weight[o + k], r < ``rows``, k < ``outputs``.

    While it runs, ``ahead`` rows of weights from ``next`` on are asked for: into the nearest cache if that is a whole tile, else into the second, since
    other rows of x need the nearest before these weights are due.
    """

    @intrinsic
    def sums(typing, x, weight, out, row, o, column, next):
        def generate(context, builder, signature, arguments):
            kinds, matrices, (row, o, column, next) = signature.args[:3], arguments[:3], arguments[3:]
            left, right, out = (Matrix(context, builder, kind, m) for kind, m in zip(kinds, matrices, strict=True))
            total = [[cgutils.alloca_once_value(builder, ir.Constant(VECTOR, None)) for _ in range(outputs)] for _ in range(rows)]

            def step(i, count=None):
                xs = [left.load(plus(builder, row, r), i, count) for r in range(rows)]
                for k in range(outputs):
                    w = right.load(plus(builder, o, k), i, count)
                    for r in range(rows):
                        builder.store(fma(builder, xs[r], w, builder.load(total[r][k])), total[r][k])

            whole = builder.and_(right.columns, right.columns.type(-STEPS * LANES))
            with cgutils.for_range_slice(builder, whole.type(0), whole, whole.type(STEPS * LANES), whole.type) as (i, _):
                for n in range(0, STEPS * LANES, LINE // right.size):
                    for k in range(ahead):
                        right.prefetch(plus(builder, next, k), plus(builder, i, n), near=ahead >= outputs)
                for n in range(STEPS):
                    step(plus(builder, i, n * LANES))
            with builder.if_then(builder.icmp_signed("<", whole, right.columns)):
                for n in range(STEPS):
                    i = plus(builder, whole, n * LANES)
                    step(i, builder.sub(right.columns, i))
            for r in range(rows):
                for k in range(outputs):
                    builder.store(add_lanes(builder, builder.load(total[r][k])), out.at(plus(builder, row, r), plus(builder, column, k)))
            return context.get_dummy_value()

        return types.void(x, weight, out, types.intp, types.intp, types.intp, types.intp), generate

    return sums


@intrinsic
def add_rows(typing, weights, matrix, out, row, column, first, last):
    """out[row] += Σ weights[row, column + j - first] · matrix[j] for j from ``first`` to ``last`` - 1, added one after the other."""

    def generate(context, builder, signature, arguments):
        kinds, matrices, (row, column, first, last) = signature.args[:3], arguments[:3], arguments[3:]
        weights, right, out = (Matrix(context, builder, kind, m) for kind, m in zip(kinds, matrices, strict=True))

        def add(d, vectors, count=None):
            places = [(plus(builder, d, n * LANES), builder.sub(count, d.type(n * LANES)) if count else None) for n in range(vectors)]
            totals = [cgutils.alloca_once_value(builder, ir.Constant(VECTOR, None)) for _ in places]
            for total, place in zip(totals, places, strict=True):
                builder.store(out.load(row, *place), total)
            with cgutils.for_range(builder, builder.sub(last, first)) as loop:
                weight = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), builder.load(weights.at(row, builder.add(column, loop.index))), I32(0))
                weight = builder.shuffle_vector(weight, weight, ir.Constant(INTS, [0] * LANES))
                for total, place in zip(totals, places, strict=True):
                    builder.store(fma(builder, weight, right.load(builder.add(first, loop.index), *place), builder.load(total)), total)
            for total, place in zip(totals, places, strict=True):
                out.store(builder.load(total), row, *place)

        width = AT_ONCE * LANES
        whole = builder.and_(right.columns, right.columns.type(-width))
        with cgutils.for_range_slice(builder, whole.type(0), whole, whole.type(width), whole.type) as (d, _):
            add(d, AT_ONCE)
        with cgutils.for_range_slice(builder, whole, right.columns, whole.type(LANES), whole.type) as (d, _):
            add(d, 1, builder.sub(right.columns, d))
        return context.get_dummy_value()

    return types.void(weights, matrix, out, types.intp, types.intp, types.intp, types.intp), generate


class Matrix:
    """A numba array of two axes as LLVM sees it."""

    def __init__(self, context, builder, kind, value):
        self.context, self.builder, self.kind = context, builder, kind
        self.array = context.make_array(kind)(context, builder, value)
        self.columns = cgutils.unpack_tuple(builder, self.array.shape)[1]
        self.size = kind.dtype.bitwidth // 8

    def at(self, row, column):
        """The address of an element; nothing is checked."""
        return cgutils.get_item_pointer(self.context, self.builder, self.kind, self.array, [row, column], wraparound=False)

    def load(self, row, column, count=None):
        """Sixteen numbers from ``column`` on as float32; with ``count`` the first so many, and zeros."""
        start = self.at(row, column)
        kind = ir.VectorType(start.type.pointee, LANES)
        start = self.builder.bitcast(start, kind.as_pointer())
        numbers = self.builder.load(start, align=self.size) if count is None else self._load_part(start, kind, count)
        return numbers if self.kind.dtype == types.float32 else widened(self.builder, numbers)

    def store(self, numbers, row, column, count=None):
        """Write sixteen numbers from ``column`` on, or the first ``count``; of a float32 array."""
        start = self.builder.bitcast(self.at(row, column), VECTOR.as_pointer())
        if count is None:
            self.builder.store(numbers, start, align=self.size)
        else:
            call(self.builder, f"llvm.masked.store.v{LANES}f32.p0", ir.VoidType(), numbers, start, I32(self.size), self._first(count))

    def _load_part(self, start, kind, count):
        name = f"llvm.masked.load.v{LANES}{kind.element.intrinsic_name}.p0"
        return call(self.builder, name, kind, start, I32(self.size), self._first(count), ir.Constant(kind, None))

    def _first(self, count):
        """A mask of the first ``count`` lanes."""
        count = self.builder.insert_element(ir.Constant(INTS, ir.Undefined), self.builder.trunc(count, I32), I32(0))
        count = self.builder.shuffle_vector(count, count, ir.Constant(INTS, [0] * LANES))
        return self.builder.icmp_signed("<", ir.Constant(INTS, list(range(LANES))), count)

    def prefetch(self, row, column, near):
        """Ask for the memory there, which need not exist: data to read, into the nearest cache or the second."""
        call(self.builder, "llvm.prefetch.p0", ir.VoidType(), self.builder.bitcast(self.at(row, column), BYTE), I32(0), I32(3 if near else 2), I32(1))


def call(builder, name, result, *arguments):
    """One of LLVM's own functions."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def plus(builder, value, number):
    """``value`` + a constant."""
    return builder.add(value, value.type(number)) if number else value


def fma(builder, a, b, c):
    """a · b + c in every lane, in one rounding where the processor has it."""
    return call(builder, f"llvm.fmuladd.v{LANES}f32", VECTOR, a, b, c)


def widened(builder, numbers):
    """bfloat16 bits as float32."""
    return builder.bitcast(builder.shl(builder.zext(numbers, INTS), ir.Constant(INTS, [16] * LANES)), VECTOR)


def add_lanes(builder, numbers):
    """The sum of the lanes, as a tree."""
    half = LANES // 2
    while half:
        at = ir.VectorType(I32, half)
        lower, upper = (builder.shuffle_vector(numbers, numbers, ir.Constant(at, list(range(start, start + half)))) for start in (0, half))
        numbers, half = builder.fadd(lower, upper), half // 2
    return builder.extract_element(numbers, I32(0))
