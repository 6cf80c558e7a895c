"""Vector micro-kernels as LLVM intrinsics: acc[p, s] += Σ_m w_m · src[offset_m + p·step + s] for a run of samples s.

Plain numba loops over the same arrays are 1.5 to 10 times slower: index wrap-around keeps LLVM from vectorising them.
Samples are the innermost dimension everywhere, so that every kernel is this one sum with other offsets.  Vectors are
as wide as the machine's registers, and all arrays start on 64 bytes: a load across two cache lines costs two.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # numba's own types describe the functions as written, not as called
cgutils: Any = _cgutils

RUN = 16
"""Samples that a micro-kernel handles at a time."""

_REGISTER_BYTES = 64 if llvm.get_host_cpu_features().get("avx512f", False) else 32
PIXELS = 8 if _REGISTER_BYTES == 64 else 4
"""Output positions of one call of `taps_wide`: as many accumulators as registers hold."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _vector(scalar: ir.Type) -> tuple[ir.VectorType, int]:
    """Return the vector type of a scalar, and how many of them make a run."""
    bytes_each = 8 if isinstance(scalar, ir.DoubleType) else 4
    width = min(_REGISTER_BYTES // bytes_each, RUN)
    return ir.VectorType(scalar, width), RUN // width


def _splat(b: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    undefined = ir.Constant(vector, ir.Undefined)
    single = b.insert_element(undefined, value, _I32(0))
    return b.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count))


def _load(b: ir.IRBuilder, pointer: ir.Value, index: ir.Value, vector: ir.VectorType, align: int) -> ir.Value:
    value = b.load(b.bitcast(b.gep(pointer, [index]), vector.as_pointer()))
    value.align = align
    return value


def _store(b: ir.IRBuilder, value: ir.Value, pointer: ir.Value, index: ir.Value, align: int) -> None:
    b.store(value, b.bitcast(b.gep(pointer, [index]), value.type.as_pointer())).align = align


def _function(b: ir.IRBuilder, name: str, vector: ir.VectorType, arguments: int) -> ir.Function:
    suffix = f"v{vector.count}{'f64' if isinstance(vector.element, ir.DoubleType) else 'f32'}"
    kind = ir.FunctionType(vector, [vector] * arguments)
    return cgutils.get_or_insert_function(b.module, kind, f"llvm.{name}.{suffix}")


@intrinsic
def address(typing_context: Any, array: Any, index: Any) -> Any:
    """Return a pointer to an entry of a contiguous array, counted in elements from its start."""
    signature = types.CPointer(array.dtype)(array, types.intp)

    def codegen(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        from numba.np.arrayobj import make_array

        return b.gep(make_array(signature.args[0])(context, b, arguments[0]).data, [arguments[1]])

    return signature, codegen


def _taps(positions: int, runs: int) -> Any:
    """Make the micro-kernel for a number of output positions and of runs of samples."""

    @intrinsic
    def taps(
        typing_context: Any, src: Any, offsets: Any, weights: Any, n: Any, src_step: Any, dst: Any, dst_step: Any
    ) -> Any:
        signature = types.void(src, offsets, weights, types.intp, types.intp, dst, types.intp)

        def codegen(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            source, offset, weight, count, s_step, target, d_step = arguments
            vector, per_run = _vector(context.get_data_type(signature.args[0].dtype))
            align = vector.element.get_abi_size(context.target_data)
            fma = _function(b, "fma", vector, 3)
            accumulators = []
            for p in range(positions):
                for v in range(per_run * runs):
                    index = b.add(b.mul(d_step, _I64(p)), _I64(v * vector.count))
                    slot = cgutils.alloca_once(b, vector)
                    b.store(_load(b, target, index, vector, align), slot)
                    accumulators.append((slot, index, p, v * vector.count))
            with cgutils.for_range(b, count) as loop:
                w = _splat(b, b.load(b.gep(weight, [loop.index])), vector)
                o = b.load(b.gep(offset, [loop.index]))
                for slot, _, p, s in accumulators:
                    x = _load(b, source, b.add(o, b.add(b.mul(s_step, _I64(p)), _I64(s))), vector, align)
                    b.store(b.call(fma, [w, x, b.load(slot)]), slot)
            for slot, index, _, _ in accumulators:
                _store(b, b.load(slot), target, index, align)
            return context.get_dummy_value()

        return signature, codegen

    return taps


taps_wide = _taps(PIXELS, 1)
"""`PIXELS` positions of one run each."""
taps_one = _taps(1, 1)
"""One position of one run."""
taps_tile = _taps(1, 4)
"""One position of four runs: a whole tile of samples."""


@intrinsic
def rows_tile(
    typing_context: Any, src: Any, offsets: Any, weights: Any, n: Any, weight_step: Any, dst: Any, dst_step: Any
) -> Any:
    """Add n source rows of four runs to four target rows: dst[o, s] += Σ_m w[m·weight_step + o] · src[offset_m + s]."""
    signature = types.void(src, offsets, weights, types.intp, types.intp, dst, types.intp)

    def codegen(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, offset, weight, count, w_step, target, d_step = arguments
        vector, per_run = _vector(context.get_data_type(signature.args[0].dtype))
        align = vector.element.get_abi_size(context.target_data)
        fma = _function(b, "fma", vector, 3)
        half = per_run * 4 // 2 if vector.count < 16 else per_run * 4
        with cgutils.for_range(b, _I64(per_run * 4 // half)) as part:
            start = b.mul(part.index, _I64(half * vector.count))
            slots = []
            for o in range(4):
                for v in range(half):
                    index = b.add(b.add(b.mul(d_step, _I64(o)), start), _I64(v * vector.count))
                    slot = cgutils.alloca_once(b, vector)
                    b.store(_load(b, target, index, vector, align), slot)
                    slots.append((slot, index))
            with cgutils.for_range(b, count) as loop:
                base = b.add(b.load(b.gep(offset, [loop.index])), start)
                xs = [_load(b, source, b.add(base, _I64(v * vector.count)), vector, align) for v in range(half)]
                for o in range(4):
                    w = _splat(b, b.load(b.gep(weight, [b.add(b.mul(loop.index, w_step), _I64(o))])), vector)
                    for v in range(half):
                        slot, _ = slots[o * half + v]
                        b.store(b.call(fma, [w, xs[v], b.load(slot)]), slot)
            for slot, index in slots:
                _store(b, b.load(slot), target, index, align)
        return context.get_dummy_value()

    return signature, codegen


def _elementwise(build: Callable[[ir.IRBuilder, list[ir.Value], ir.VectorType], ir.Value], inputs: int) -> Any:
    """Make a micro-kernel over one run: dst[s] = f(inputs[s]…); integer inputs are converted first."""

    def body(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        vector, per_run = _vector(context.get_data_type(signature.args[inputs].dtype))
        align = vector.element.get_abi_size(context.target_data)
        scalars = [_splat(b, value, vector) for value in arguments[inputs + 1 :]]
        for v in range(per_run):
            index = _I64(v * vector.count)
            values = []
            for pointer in arguments[:inputs]:
                if isinstance(pointer.type.pointee, ir.IntType):
                    codes = ir.VectorType(pointer.type.pointee, vector.count)
                    values.append(b.uitofp(_load(b, pointer, index, codes, 1), vector))
                else:
                    values.append(_load(b, pointer, index, vector, align))
            _store(b, build(b, values + scalars, vector), arguments[inputs], index, align)
        return context.get_dummy_value()

    return body


_decode = _elementwise(lambda b, v, t: b.call(_function(b, "fma", t, 3), [v[0], v[1], v[2]]), 1)
_difference = _elementwise(lambda b, v, t: b.fsub(v[0], v[1]), 2)
_copy = _elementwise(lambda b, v, t: v[0], 1)


@intrinsic
def decode(typing_context: Any, src: Any, dst: Any, scale: Any, shift: Any) -> Any:
    """One run: dst[s] = src[s]·scale + shift, src of any unsigned or floating type."""
    return types.void(src, dst, dst.dtype, dst.dtype), _decode


@intrinsic
def difference(typing_context: Any, new: Any, old: Any, dst: Any) -> Any:
    """One run: dst[s] = new[s] - old[s]."""
    return types.void(new, old, dst), _difference


@intrinsic
def copy(typing_context: Any, src: Any, dst: Any) -> Any:
    """One run: dst[s] = src[s]."""
    return types.void(src, dst), _copy


@intrinsic
def decode_line(
    typing_context: Any, src: Any, src_step: Any, dst: Any, dst_step: Any, n: Any, scale: Any, shift: Any
) -> Any:
    """n runs, `src_step` and `dst_step` apart: dst[i, s] = src[i, s]·scale + shift."""
    signature = types.void(src, types.intp, dst, types.intp, types.intp, dst.dtype, dst.dtype)

    def codegen(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, s_step, target, d_step, count, scale, shift = arguments
        run = types.void(signature.args[0], signature.args[2], signature.args[5], signature.args[6])
        with cgutils.for_range(b, count) as loop:
            from_ = b.gep(source, [b.mul(loop.index, s_step)])
            to = b.gep(target, [b.mul(loop.index, d_step)])
            _decode(context, b, run, (from_, to, scale, shift))
        return context.get_dummy_value()

    return signature, codegen


_EXP_COEFFICIENTS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)


def _exp(b: ir.IRBuilder, x: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Return e^x for x <= 80 in float32, to 2 units in the last place; nan stays nan, below -87 it is 0.

    Cody and Waite's reduction x = n·log 2 + r with the polynomial of Cephes' expf (Moshier 1992).
    """

    def constant(value: float) -> ir.Constant:
        rounded = struct.unpack("f", struct.pack("f", value))[0]
        return ir.Constant(vector, [rounded] * vector.count)

    fma = _function(b, "fma", vector, 3)
    n = b.call(_function(b, "rint", vector, 1), [b.fmul(x, constant(1.44269504088896341))])
    r = b.call(fma, [n, constant(-0.693359375), x])
    r = b.call(fma, [n, constant(2.12194440e-4), r])
    p = constant(_EXP_COEFFICIENTS[0])
    for coefficient in _EXP_COEFFICIENTS[1:]:
        p = b.call(fma, [p, r, constant(coefficient)])
    p = b.fadd(b.call(fma, [p, b.fmul(r, r), r]), constant(1.0))
    integers = ir.VectorType(_I32, vector.count)
    in_range = b.fcmp_ordered(">", x, constant(-87.0))
    safe = b.select(in_range, n, constant(0.0))
    bits = b.shl(
        b.add(b.fptosi(safe, integers), ir.Constant(integers, [127] * vector.count)),
        ir.Constant(integers, [23] * vector.count),
    )
    value = b.select(in_range, b.fmul(p, b.bitcast(bits, vector)), constant(0.0))
    return b.select(b.fcmp_unordered("uno", x, x), x, value)


@intrinsic
def max_and_sum_exp(typing_context: Any, src: Any, step: Any, n: Any, top: Any, total: Any) -> Any:
    """One run over n float32 rows: top[s] = max_c src[c, s], total[s] = Σ_c exp(src[c, s] - top[s]); keeps nan."""
    signature = types.void(src, types.intp, types.intp, top, total)

    def codegen(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, row, count, highest, sums = arguments
        vector, per_run = _vector(ir.FloatType())
        for v in range(per_run):
            column = _I64(v * vector.count)
            best = cgutils.alloca_once(b, vector)
            b.store(_load(b, source, column, vector, 4), best)
            with cgutils.for_range(b, count) as loop:
                x = _load(b, source, b.add(b.mul(loop.index, row), column), vector, 4)
                m = b.load(best)
                b.store(b.select(b.fcmp_unordered(">", x, m), x, m), best)  # true for a nan, which then stays in x - m
            m = b.load(best)
            total_ = cgutils.alloca_once(b, vector)
            b.store(ir.Constant(vector, [0.0] * vector.count), total_)
            with cgutils.for_range(b, count) as loop:
                x = _load(b, source, b.add(b.mul(loop.index, row), column), vector, 4)
                b.store(b.fadd(b.load(total_), _exp(b, b.fsub(x, m), vector)), total_)
            _store(b, m, highest, column, 4)
            _store(b, b.load(total_), sums, column, 4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def exp_change(typing_context: Any, old: Any, new: Any, top: Any, total: Any) -> Any:
    """One run of float32: total[s] += exp(new[s] - top[s]) - exp(old[s] - top[s]); beyond e^80 it is cut off there."""
    signature = types.void(old, new, top, total)

    def codegen(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        vector, per_run = _vector(ir.FloatType())
        limit = ir.Constant(vector, [80.0] * vector.count)
        for v in range(per_run):
            index = _I64(v * vector.count)
            before, after, highest, sums = (_load(b, pointer, index, vector, 4) for pointer in arguments)
            powers = []
            for z in (after, before):
                x = b.fsub(z, highest)
                powers.append(_exp(b, b.select(b.fcmp_ordered(">", x, limit), limit, x), vector))
            _store(b, b.fadd(sums, b.fsub(*powers)), arguments[3], index, 4)
        return context.get_dummy_value()

    return signature, codegen
