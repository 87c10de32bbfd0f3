"""The kernel for GPUs, by Triton's interpreter on the CPU, against mixing slice by slice; and compiled for a GPU."""

import importlib.util
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xvit.models import mixing
from xvit.models.mixing import MixingPattern, channel_slices, temporal_offsets

pytest.importorskip("triton", reason="Triton comes with torch for GPUs only")
H, d = 2, 8


def load_kernel() -> ModuleType:
    """A copy of the module that is not in `sys.modules`."""
    spec = importlib.util.find_spec("xvit.models.mixing_kernel")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def interpreted() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        return load_kernel()


class OnGPU(torch.Tensor):
    """A tensor that is said to be on a GPU."""

    is_cuda = True


patterns = st.builds(
    lambda window, ratio, causal, **options: MixingPattern(
        slices=channel_slices(d if options["per_head"] else H * d, ratio, temporal_offsets(window, causal=causal)),
        **options,
    ),
    window=st.integers(1, 2),
    ratio=st.sampled_from([0.5, 1.0]),
    causal=st.booleans(),
    inputs=st.sampled_from(["keys_values", "keys", "values"]),
    per_head=st.booleans(),
    replicate=st.sampled_from([False, False, True]),
)


@settings(max_examples=40, deadline=None)
@given(pattern=patterns, segments=st.integers(1, 3), frames=st.integers(1, 5), backward=st.booleans())
def test_the_kernel_moves_what_the_slices_move(interpreted, pattern, segments, frames, backward):
    shape, moved = (2, segments * frames, 3), []
    pattern = MixingPattern(**vars(pattern) | {"segment_frames": frames if segments > 1 else 0})
    qkv = torch.randn(2 * segments * frames * 3, 3 * H * d, generator=torch.Generator().manual_seed(frames))
    expected = qkv.clone()
    for offset, channels in pattern.moving_views(expected, shape, H):
        mixing._shift_in_place(channels, -offset if backward else offset, replicate=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing, "_find_kernel", lambda: interpreted)
        moved = mixing._shift_by_kernel(qkv.as_subclass(OnGPU), pattern, shape, H, backward=backward)
    assert moved is not pattern.replicate
    assert torch.equal(qkv, expected) is moved


class OwnPattern(MixingPattern):
    """A pattern that decides itself what moves."""

    def split(self, x):
        return super().split(x[:, :, :1])


def test_what_the_kernel_cannot_do_is_left_to_torch(interpreted, monkeypatch):
    options = {"slices": channel_slices(H * d, 0.5, (1, -1))}
    qkv = torch.zeros(4 * 3, 3 * H * d).as_subclass(OnGPU)
    monkeypatch.setattr(mixing, "_find_kernel", lambda: interpreted)
    assert mixing._shift_by_kernel(qkv, MixingPattern(**options), (1, 4, 3), H)
    assert not mixing._shift_by_kernel(qkv, OwnPattern(**options), (1, 4, 3), H)
    assert not mixing._shift_by_kernel(qkv, MixingPattern(**options, segment_frames=3), (1, 4, 3), H)
    assert not mixing._shift_by_kernel(qkv.as_subclass(torch.Tensor), MixingPattern(**options), (1, 4, 3), H)
    monkeypatch.setattr(interpreted, "MAX_FRAMES", 3)
    assert not mixing._shift_by_kernel(qkv, MixingPattern(**options), (1, 4, 3), H)
    monkeypatch.setattr(mixing, "_find_kernel", lambda: None)
    assert not mixing._shift_by_kernel(qkv, MixingPattern(**options), (1, 2, 6), H)


def test_the_kernel_compiles_for_a_gpu():
    """Compiled code allows less than the interpreter; wide loads need what Triton knows of the sizes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = load_kernel()._shift
    constants = {"OFFSETS": (1, -1), "FRAMES": 8, "BLOCK": 64}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else "i32" for name in names} | {"qkv": "*bf16"}
    divisible = {(names.index(name),): [["tt.divisibility", 16]] for name in ("qkv", "D", "width", "size")}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, divisible)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 2})
    loads = [line.strip() for line in compiled.asm["ptx"].splitlines() if "ld.global" in line]
    assert loads
    assert all("ld.global.v4" in line for line in loads), loads
