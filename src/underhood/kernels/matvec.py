"""Products of a few rows with a weight matrix, as decoding needs them: each weight is read once, at the speed of memory.

``project`` computes f(x Wᵀ + b) for x (N, I) and W (O, I) and writes it, adds it to what is there, or multiplies it in. W is float32, or bfloat16 as
``uint16`` (see ``simd``); x, b and every sum are float32.

An output's sum has one order, whatever the other rows and the number of threads: threads share out the outputs, and a tile of four rows is sixteen
sums side by side. NaN and infinity come through.
"""

# mypy: ignore-errors

import math

import numpy as np
from numba import prange

from underhood.kernels.simd import SUMS, compiled, inner, tile

TILE = 4  # outputs, and rows where there are as many, whose sums run side by side
CHUNK = 64  # outputs that are finished (bias, activation) together
SET, ADD, MULTIPLY = range(3)  # what becomes of the numbers that ``out`` held
IDENTITY, GELU, GELU_TANH, SILU, RELU, RELU_SQUARED = range(6)


def sharing(rows):
    """A tile of ``rows`` rows and ``TILE`` outputs that asks for the next tile of weights meanwhile, or for its share of it.

    A tile of weights serves ``groups`` tiles of rows, one after the other. If the first asked for everything, the memory would rest during the others.
    """
    alone, half, quarter = (tile(rows, TILE, ahead) for ahead in (TILE, TILE // 2, TILE // 4))

    @inner()
    def sums(x, weight, out, row, o, column, group, groups):
        if groups == 1:
            alone(x, weight, out, row, o, column, o + TILE)
        elif groups < TILE:
            half(x, weight, out, row, o, column, o + TILE + min(group, 1) * (TILE // 2))
        else:
            quarter(x, weight, out, row, o, column, o + TILE + min(group, TILE - 1))

    return sums


four_by_four, one_by_four, one_by_one = sharing(TILE), sharing(1), tile(1, 1, 1)


@compiled(parallel=True)
def project(x, weight, bias, out, column, activation, mode, threads):
    """Columns ``column`` … ``column`` + O - 1 of out ← f(x Wᵀ + b); an empty bias is none.

    With one thread no other is woken: numba's threads meet at the end of every loop, those that have nothing to do too.
    """
    mine = out[:, column : column + weight.shape[0]]
    if threads == 1:
        outputs(x, weight, bias, mine, 0, weight.shape[0], activation, mode)
    else:
        for part in prange(threads):
            start, stop = share(weight.shape[0], part, threads)
            outputs(x, weight, bias, mine, start, stop, activation, mode)


@inner()
def share(count, part, parts):
    """The outputs of one of ``parts``: whole tiles, as even as can be."""
    tiles = (count + TILE - 1) // TILE
    return min(count, tiles * part // parts * TILE), min(count, tiles * (part + 1) // parts * TILE)


@inner()
def outputs(x, weight, bias, out, start, stop, activation, mode):
    """Outputs ``start`` … ``stop`` - 1 of every row."""
    sums = np.empty((x.shape[0], CHUNK), np.float32)
    for chunk in range(start, stop, CHUNK):
        end = min(chunk + CHUNK, stop)
        products(x, weight, sums, chunk, end)
        finish(sums, bias, out, chunk, end, activation, mode)


@inner()
def products(x, weight, sums, start, stop):
    """sums[n, o - start] = x[n] · weight[o]; a tile of weights is used by every row while it is near."""
    rows, whole = x.shape[0], stop - (stop - start) % TILE
    fours = rows // TILE
    groups = fours + rows % TILE
    for o in range(start, whole, TILE):
        for group in range(fours):
            four_by_four(x, weight, sums, group * TILE, o, o - start, group, groups)
        for group in range(fours, groups):
            one_by_four(x, weight, sums, fours * TILE + group - fours, o, o - start, group, groups)
    for o in range(whole, stop):
        for row in range(rows):
            one_by_one(x, weight, sums, row, o, o - start, o + 1)


@inner()
def finish(sums, bias, out, start, stop, activation, mode):
    """Bias, activation, and into ``out``."""
    for row in range(sums.shape[0]):
        numbers = sums[row, : stop - start]
        if bias.shape[0]:
            numbers += bias[start:stop]
        if activation != IDENTITY:
            activate(numbers, activation)
        if mode == SET:
            out[row, start:stop] = numbers
        elif mode == ADD:
            out[row, start:stop] += numbers
        else:
            out[row, start:stop] *= numbers


@inner()
def activate(x, activation):
    """x ← f(x), as ``underhood.nn.activation`` has it; x·(1 + tanh u)/2 is x·σ(2u)."""
    half, one, slope, cubic = np.float32(0.5), np.float32(1), np.float32(2 * math.sqrt(2 / math.pi)), np.float32(0.044715)
    for i in range(x.shape[0]):
        if activation == GELU:
            x[i] = half * x[i] * (one + np.float32(math.erf(x[i] * np.float32(math.sqrt(0.5)))))
        elif activation == GELU_TANH:
            x[i] = x[i] / (one + exp(-slope * (x[i] + cubic * x[i] * x[i] * x[i])))
        elif activation == SILU:
            x[i] = x[i] / (one + exp(-x[i]))
        else:
            positive = np.float32(0) if x[i] < 0 else x[i]
            x[i] = positive * positive if activation == RELU_SQUARED else positive


@inner()
def exp(x):
    """e^x within 2 units in the last place, without a branch, so that LLVM can join sixteen of them; 2^-126 at the least, 2^127 at the most.

    x = n ln 2 + r with |r| ≤ ln 2 / 2; e^r by its Taylor series; 2^n by writing n into the exponent. Adding 1.5 · 2²³ rounds to a whole number, which
    then stands in the lowest bits. NaN stays NaN.
    """
    x = np.float32(-87.33) if x < np.float32(-87.33) else x
    x = np.float32(88.37) if x > np.float32(88.37) else x
    shifted = np.float32(x * np.float32(1 / math.log(2)) + np.float32(12582912.0))
    n = shifted - np.float32(12582912.0)
    r = x - n * np.float32(0.693145751953125)  # ln 2 in two parts: the first has few bits, so that this product is exact
    r = r - n * np.float32(1.428606765330187e-06)
    upper = ((np.float32(1 / 5040) * r + np.float32(1 / 720)) * r + np.float32(1 / 120)) * r + np.float32(1 / 24)
    series = (((upper * r + np.float32(1 / 6)) * r + np.float32(1 / 2)) * r + np.float32(1)) * r + np.float32(1)
    exponent = np.int32((shifted.view(np.int32) << 23) + 0x3F800000)
    return series * exponent.view(np.float32)


@compiled(fastmath=SUMS)
def normalise(x, out, gain, shift, centred, epsilon):
    """Layer norm (``centred``) or RMS norm of each row, with gain and shift where these are not empty."""
    count = np.float32(x.shape[1])
    for row in range(x.shape[0]):
        numbers, result, mean, square = x[row], out[row], np.float32(0), np.float32(0)
        if centred:
            for i in range(x.shape[1]):
                mean += numbers[i]
            mean /= count
        for i in range(x.shape[1]):
            square += (numbers[i] - mean) * (numbers[i] - mean)
        scale = np.float32(1 / math.sqrt(square / count + np.float32(epsilon)))
        for i in range(x.shape[1]):
            result[i] = (numbers[i] - mean) * scale
        if gain.shape[0]:
            result *= gain
        if shift.shape[0]:
            result += shift
