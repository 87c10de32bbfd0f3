"""`MixingPattern.mix_in_place` on a GPU as one Triton kernel, which reads and writes each number that moves once.

In torch it takes some twenty small operations a layer, for which a fast GPU has to wait, and twice the memory traffic.
Triton comes with torch where it has a use for it (CUDA, ROCm); without it the operations of torch are used.

Each program holds all T frames of one token and of some channels: it reads them at t + offset, then writes them at t.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_FRAMES = 256  # of a program
_MAX_NUMBERS, _MIN_BLOCK = 2048, 16


def shift_in_place(
    qkv: Tensor,
    offsets: tuple[int, ...],
    size: int,
    shape: tuple[int, int, int],
    *,
    kinds: range,
    width: int,
    backward: bool = False,
) -> None:
    """Overwrite the channels of each slice at frame t with those at frame t + offset; zeros stand for frames outside.

    Args:
        qkv: (B T N, 3 D), contiguous, overwritten.
        offsets: of the adjacent slices, from channel 0 on.
        size: channels in a slice.
        shape: B, T, N, with T <= `MAX_FRAMES`.
        kinds: what moves: range(1, 3) for keys and values, range(1, 2) for keys, range(2, 3) for values.
        width: the slices repeat after so many channels: D, or d to have them in each head.
        backward: use frame t - offset, as the gradient does.
    """
    B, T, N = shape
    D, sign = qkv.shape[1] // 3, -1 if backward else 1
    frames, block = triton.next_power_of_2(T), size & -size  # the largest power of two in the size
    if block < _MIN_BLOCK:
        block = triton.next_power_of_2(size)
    block = min(block, max(_MAX_NUMBERS // frames, 1))
    warps = min(max(frames * block // 256, 1), 8)  # eight numbers a thread: 16 bytes in half precision
    num_slices = len(kinds) * (D // width) * len(offsets)
    grid = (B * N, num_slices, triton.cdiv(size, block))
    with torch.accelerator.device_index(qkv.device.index):  # Triton runs on the current device
        signed = tuple(sign * offset for offset in offsets)
        _shift[grid](qkv, T, N, D, width, size, kinds.start, signed, frames, block, num_warps=warps)


@triton.jit
def _shift(  # type: ignore[no-untyped-def]
    qkv,
    T,
    N,
    D,
    width,
    size,
    first_kind,
    OFFSETS: tl.constexpr,
    FRAMES: tl.constexpr,  # the power of two from T on
    BLOCK: tl.constexpr,
):
    clip, token = tl.program_id(0) // N, tl.program_id(0) % N
    part, group = tl.program_id(1) % len(OFFSETS), tl.program_id(1) // len(OFFSETS)
    offset = 0
    for i in tl.static_range(len(OFFSETS)):
        offset = tl.where(part == i, OFFSETS[i], offset)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)[None, :]
    # Groups of slices follow each other in the keys, then in the values, which follow the keys.
    column = first_kind * D + group * width + part * size + channel
    t = tl.arange(0, FRAMES)[:, None].to(tl.int64)  # products with it may be beyond 32 bits
    clip_start = (clip.to(tl.int64) * T * N + token) * 3 * D
    start, frame = qkv + clip_start + column, N * 3 * D
    exists, source = (t < T) & (channel < size), t + offset
    values = tl.load(start + source * frame, mask=exists & (source >= 0) & (source < T), other=0)
    tl.debug_barrier()  # until all threads have read: what one writes another may still have to read
    tl.store(start + t * frame, values, mask=exists)
