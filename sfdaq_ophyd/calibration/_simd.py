"""Sixteen pixels at a time: the four operations numba has no words for.

Written as LLVM vector code, which every CPU can run; where it has them, one AVX-512 or two AVX2 instructions
per operation. Addresses are plain integers; the callers of `_kernel` have checked what lies there.
Subtraction and multiplication stay two roundings: no fast-math flag is set, so LLVM must not fuse them.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16
"""Pixels per operation: one 64-byte line of the output."""

COMMON_BYTES, RARE_BYTES = 6 * LANES, 12 * LANES
"""Bytes of the packed constants of 16 pixels: of G0, and of G1 and G2."""

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_WORDS = ir.VectorType(_I16, LANES)
_INTS = ir.VectorType(_I32, LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)


def _all(value: int) -> ir.Constant:
    return ir.Constant(_WORDS, [value] * LANES)


def _pointer(builder, address, kind, offset=0):
    if offset:
        address = builder.add(address, ir.Constant(_I64, offset))
    return builder.inttoptr(address, kind.as_pointer())


def _shift(bits):
    return ir.Constant(_INTS, [bits] * LANES)


def _call(builder, name, result, *args):
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _splat(builder, value, kind):
    lane = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(lane, ir.Constant(kind, ir.Undefined), ir.Constant(_INTS, [0] * LANES))


def _store(builder, value, out, *, streaming):
    store = builder.store(value, _pointer(builder, out, value.type), align=64 if streaming else 4)
    if streaming:
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))


def _either(builder, *values_and_blocks):
    phi = builder.phi(values_and_blocks[0][0].type)
    for value, block in values_and_blocks:
        phi.add_incoming(value, block)
    return phi


def _bad_words(builder, words, mask_undefined, mask_lost):
    """Return the lanes with gain code 2, if those are masked, and those with 0xFFFF, if these are."""
    yes = ir.VectorType(_I1, LANES)
    code = builder.and_(words, _all(0xC000))
    undefined = builder.icmp_unsigned("==", code, _all(0x8000))
    lost = builder.icmp_unsigned("==", words, _all(0xFFFF))
    return builder.or_(
        builder.and_(undefined, _splat(builder, builder.trunc(mask_undefined, _I1), yes)),
        builder.and_(lost, _splat(builder, builder.trunc(mask_lost, _I1), yes)),
    )


def _any(builder, lanes):
    bits = builder.bitcast(lanes, ir.IntType(LANES))
    return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))


def _packed(builder, address, bases, stage):
    """Load the three words of 16 pixels' packed constants, and their two bases."""
    words = [
        builder.load(_pointer(builder, address, _WORDS, 2 * LANES * i), align=2 * LANES) for i in range(3)
    ]
    for i in (2 * stage, 2 * stage + 1):
        base = builder.load(_pointer(builder, bases, _I32, 4 * i), align=4)
        words.append(_splat(builder, base, _INTS))
    return words


def _stage_constants(builder, words, common, rare, bases):
    """Return the packed constants by gain stage; a branch keeps the rare stages' out of the way."""
    chosen = _packed(builder, common, bases, 0)
    switched = builder.icmp_unsigned(">=", words, _all(0x4000))
    before = builder.block
    with builder.if_then(_any(builder, switched), likely=False):
        low = builder.icmp_signed("<", words, _all(0))
        medium = _packed(builder, rare, bases, 1)
        lowest = _packed(builder, builder.add(rare, ir.Constant(_I64, COMMON_BYTES)), bases, 2)
        switched_to = [builder.select(low, *pair) for pair in zip(lowest, medium)]
        mixed = [builder.select(switched, *pair) for pair in zip(switched_to, chosen)]
        inside = builder.block
    return [_either(builder, (a, before), (b, inside)) for a, b in zip(chosen, mixed)]


def _listed(builder, codes, special, exceptions):
    """Return pedestals and scales from the list of exceptions; those of masked pixels in all other lanes."""
    codes = builder.select(special, codes, ir.Constant(_INTS, [0] * LANES))
    pedestal = scale = ir.Constant(_FLOATS, ir.Undefined)
    for i in range(LANES):
        lane = ir.Constant(_I32, i)
        offset = builder.shl(builder.zext(builder.extract_element(codes, lane), _I64), ir.Constant(_I64, 3))
        at = builder.add(exceptions, offset)
        numbers = [builder.load(_pointer(builder, at, ir.FloatType(), 4 * k), align=4) for k in range(2)]
        pedestal = builder.insert_element(pedestal, numbers[0], lane)
        scale = builder.insert_element(scale, numbers[1], lane)
    return pedestal, scale


def _unpacked(builder, packed, exceptions):
    """Return pedestals and scales from their codes, or from the list where there is no code."""
    low_pedestal, low_scale, high, *bases = packed
    high = builder.zext(high, _INTS)
    high_pedestal = builder.shl(builder.and_(high, ir.Constant(_INTS, [0xFF] * LANES)), _shift(16))
    high_scale = builder.shl(builder.and_(high, ir.Constant(_INTS, [0xFF00] * LANES)), _shift(8))
    codes = [
        builder.or_(builder.zext(low, _INTS), up)
        for low, up in ((low_pedestal, high_pedestal), (low_scale, high_scale))
    ]
    numbers = [builder.bitcast(builder.add(code, base), _FLOATS) for code, base in zip(codes, bases)]
    special = builder.icmp_unsigned("==", codes[1], ir.Constant(_INTS, [0] * LANES))
    before = builder.block
    with builder.if_then(_any(builder, special), likely=False):
        listed = _listed(builder, codes[0], special, exceptions)
        mixed = [builder.select(special, *pair) for pair in zip(listed, numbers)]
        inside = builder.block
    return [_either(builder, (a, before), (b, inside)) for a, b in zip(numbers, mixed)]


def _calibrated(builder, raw, common, rare, bases, exceptions, fill, mask_undefined, mask_lost):
    """Return the 16 values."""
    words = builder.load(_pointer(builder, raw, _WORDS), align=1)
    adc = builder.uitofp(builder.zext(builder.and_(words, _all(0x3FFF)), _INTS), _FLOATS)
    packed = _stage_constants(builder, words, common, rare, bases)
    pedestal, scale = _unpacked(builder, packed, exceptions)
    before = builder.block
    with builder.if_then(builder.trunc(builder.or_(mask_undefined, mask_lost), _I1), likely=False):
        bad = _bad_words(builder, words, mask_undefined, mask_lost)
        masked_pedestal = builder.select(bad, ir.Constant(_FLOATS, [0.0] * LANES), pedestal)
        masked_scale = builder.select(bad, _splat(builder, fill, _FLOATS), scale)
        inside = builder.block
    pedestal = _either(builder, (pedestal, before), (masked_pedestal, inside))
    scale = _either(builder, (scale, before), (masked_scale, inside))
    return builder.fmul(builder.fsub(adc, pedestal), scale)


def _converter(streaming):
    """Make the intrinsic that calibrates 16 words and stores them anywhere, or past the caches."""

    @intrinsic
    def convert(
        typingctx, raw, common, rare, bases, exceptions, out, fill, mask_undefined, mask_lost, as_int
    ):  # fmt: skip
        def codegen(context, builder, signature, args):
            raw, common, rare, bases, exceptions, out, fill, mask_undefined, mask_lost, as_int = args
            value = _calibrated(
                builder, raw, common, rare, bases, exceptions, fill, mask_undefined, mask_lost
            )
            with builder.if_else(builder.trunc(as_int, _I1)) as (integers, floats):
                with integers:
                    rounded = _call(builder, "llvm.rint.v16f32", _FLOATS, value)
                    _store(builder, builder.fptosi(rounded, _INTS), out, streaming=streaming)
                with floats:
                    _store(builder, value, out, streaming=streaming)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6, types.float32, *[types.boolean] * 3), codegen

    return convert


convert16 = _converter(streaming=False)
"""Calibrate 16 raw words.

``convert16(raw, common, rare, bases, exceptions, out, fill, mask_undefined, mask_lost, as_int)``. ``raw``:
address of 16 uint16. ``common``, ``rare``, ``bases``, ``exceptions``: the constants, as `Packed` has them;
``rare`` is read only if one of the 16 is not in G0. ``out``: address of 16 float32 or, with ``as_int``,
int32.
``fill`` replaces code 2 and lost words on request.
"""

convert16_streaming = _converter(streaming=True)
"""The same, to a 64-byte boundary and past the caches."""


@intrinsic
def stream16(typingctx, source, target):
    """Copy 64 bytes to a 64-byte boundary past the caches: a written line need not be read first."""

    def codegen(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[0], _INTS), align=4)
        _store(builder, value, args[1], streaming=True)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen


@intrinsic
def copy16(typingctx, source, target):
    """Copy 64 bytes."""

    def codegen(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[0], _INTS), align=4)
        _store(builder, value, args[1], streaming=False)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen


@intrinsic
def copy_part(typingctx, source, target, first, end):
    """Copy pixels `first` to `end` of 16."""

    def codegen(context, builder, signature, args):
        source, target, first, end = args
        value = builder.load(_pointer(builder, source, _INTS), align=4)
        lanes = ir.Constant(_INTS, list(range(LANES)))
        first, end = (_splat(builder, builder.trunc(lane, _I32), _INTS) for lane in (first, end))
        mask = builder.and_(builder.icmp_signed(">=", lanes, first), builder.icmp_signed("<", lanes, end))
        pointer, align = _pointer(builder, target, _INTS), ir.Constant(_I32, 4)
        _call(builder, f"llvm.masked.store.v{LANES}i32.p0", ir.VoidType(), value, pointer, align, mask)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


@intrinsic
def transpose8(typingctx, source, source_row, target, target_row):
    """Copy 8 x 8 words with rows and columns exchanged; bytes from row to row may be negative.

    Interleaving row i with row i + 4 moves one bit of the row number into the column number; three times
    moves them all.
    """

    def codegen(context, builder, signature, args):
        source, source_row, target, target_row = args
        kind = ir.VectorType(_I16, 8)

        def at(address, row, number):
            offset = builder.mul(row, ir.Constant(_I64, number))
            return _pointer(builder, builder.add(address, offset), kind)

        halves = [
            ir.Constant(ir.VectorType(_I32, 8), [k // 2 + h + 8 * (k % 2) for k in range(8)]) for h in (0, 4)
        ]
        rows = [builder.load(at(source, source_row, i), align=1) for i in range(8)]
        for _ in range(3):
            rows = [builder.shuffle_vector(rows[i], rows[i + 4], half) for i in range(4) for half in halves]
        for i, row in enumerate(rows):
            builder.store(row, at(target, target_row, i), align=1)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


@intrinsic
def fence(typingctx):
    """Make streamed lines visible to other threads before what comes next."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def expect_write(typingctx, address):
    """Fetch the line at `address`, which will be written in part."""

    def codegen(context, builder, signature, args):
        for_write, near, data = (ir.Constant(_I32, number) for number in (1, 2, 1))
        line = _pointer(builder, args[0], _I8)
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), line, for_write, near, data)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def _scalar(kind):
    """Make the two functions that read and write one number at an address."""

    @intrinsic
    def get(typingctx, address):
        def codegen(context, builder, signature, args):
            return builder.load(_pointer(builder, args[0], ir.IntType(kind.bitwidth)), align=1)

        return kind(types.intp), codegen

    @intrinsic
    def put(typingctx, address, value):
        def codegen(context, builder, signature, args):
            builder.store(args[1], _pointer(builder, args[0], ir.IntType(kind.bitwidth)), align=1)
            return context.get_dummy_value()

        return types.void(types.intp, kind), codegen

    return get, put


get_word, put_word = _scalar(types.uint16)
get_pixel, put_pixel = _scalar(types.int32)
