"""Conversions and pages: every code, saturation, the granule layout against an independent model, skipped slots."""

import math

import numpy
import pytest
import torch

import octavo
import own_scales
from reference import DEVICE

FORMATS = [octavo.FLOAT16, octavo.BFLOAT16, octavo.FP8_E4M3, octavo.FP8_E5M2]
LARGEST = {octavo.FLOAT16: 65504.0, octavo.BFLOAT16: 3.3895313892515355e38, octavo.FP8_E4M3: 448.0,
           octavo.FP8_E5M2: 57344.0}


@pytest.mark.parametrize("kv_dtype", [octavo.FP8_E4M3, octavo.FP8_E5M2])
def test_dequantize_decodes_every_code(kv_dtype):
    codes = torch.arange(256, dtype=torch.uint8, device=DEVICE).view(octavo.TORCH_DTYPES[kv_dtype])
    torch.testing.assert_close(octavo.dequantize(kv_dtype, codes), codes.float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(octavo.dequantize(kv_dtype, codes, 0.37), codes.float() * 0.37, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kv_dtype", FORMATS)
def test_quantize_rounds_to_nearest_even_of_the_quotient(kv_dtype):
    bits = torch.arange(65536, dtype=torch.int32, device=DEVICE)
    x = (bits << 16).view(torch.float32)  # every bf16
    x = x[torch.isfinite(x)]
    for scale in (1.0, 0.1, 3.7):
        quotient = x / torch.full_like(x, scale)  # by a scalar, torch multiplies with its reciprocal
        keep = quotient.abs() <= LARGEST[kv_dtype]
        expected = quotient[keep].to(octavo.TORCH_DTYPES[kv_dtype]).float()
        actual = octavo.quantize(kv_dtype, x, scale)[keep].float()
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kv_dtype", FORMATS)
def test_quantize_saturates_and_keeps_nan(kv_dtype):
    top = LARGEST[kv_dtype]
    x = torch.tensor([1e30 if top < 1e30 else 3.4e38, -3.4e38, math.inf, -math.inf, math.nan, -0.0], device=DEVICE)
    y = octavo.quantize(kv_dtype, x).float()
    assert y[:4].tolist() == [top, -top, top, -top]
    assert math.isnan(y[4].item()) and math.copysign(1, y[5].item()) == -1


def chunk_offset(row_bytes, token, chunk):
    """The layout as octavo.h words it, written again."""
    block, in_block = divmod(chunk, 8)
    width = min(row_bytes - 128 * block, 128)
    swizzle = token & 7 if width == 128 else (token >> 1) & 3 if width == 64 else 0
    return block * 128 * 16 + token * width + 16 * (in_block ^ swizzle)


OWN_SCALES = [octavo.FP8_PER_TOKEN_HEAD, octavo.INT8, octavo.INT8_PER_TOKEN_HEAD, octavo.K8V4, octavo.INT4]


def row_layout(kv_dtype, part, head_dim):
    """Of a row: bytes of its codes, the same up to a chunk's end, number and bytes of its scales."""
    if not own_scales.has_own_scales(kv_dtype):
        codes, count, size = head_dim * (1 if kv_dtype >= octavo.FP8_E4M3 else 2), 0, 0
    elif own_scales.is_int4(kv_dtype, part):
        codes, count, size = head_dim // 2, head_dim // 32, 2
    else:
        codes, count, size = head_dim, 1, 4
    return codes, -(-codes // 16) * 16, count, size


@pytest.mark.parametrize("kv_dtype", FORMATS + OWN_SCALES)
@pytest.mark.parametrize("head_dim", [8, 40, 64, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("page_size", [16, 64])
def test_append_pack_unpack_follow_the_layout(kv_dtype, head_dim, page_size):
    if head_dim % 32 != 0 and own_scales.is_int4(kv_dtype, "v"):
        pytest.skip("4-bit codes come in groups of 32")
    heads, num_pages, tokens = 3, 4, 37
    own = own_scales.has_own_scales(kv_dtype)
    shape = octavo.KvShape(kv_dtype, page_size, num_pages, heads, head_dim, 0)
    layouts = [row_layout(kv_dtype, part, head_dim) for part in "kv"]
    code_starts = [0, 16 * layouts[0][1]]
    scale_starts = [16 * (layouts[0][1] + layouts[1][1])]
    scale_starts.append(scale_starts[0] + 16 * layouts[0][2] * layouts[0][3])
    granule_bytes = scale_starts[1] + 16 * layouts[1][2] * layouts[1][3]
    assert octavo.page_bytes(shape) == page_size // 16 * heads * granule_bytes
    pool = torch.full((num_pages * octavo.page_bytes(shape),), 0xA5, dtype=torch.uint8, device=DEVICE)
    random = torch.Generator(device=DEVICE).manual_seed(5)
    k = torch.randn(tokens, heads, head_dim, generator=random, device=DEVICE)
    v = torch.randn(tokens, heads, head_dim, generator=random, device=DEVICE)
    k[5, 1] = 0
    scales = None if own else torch.tensor([[0.5, 0.25, 0.1], [1.0, 2.0, 0.3]], device=DEVICE)
    slots = torch.randperm(num_pages * page_size, generator=torch.Generator().manual_seed(1))[:tokens].to(torch.int32)
    slots[3] = -1
    rotated = own_scales.is_rotated(kv_dtype)
    mean = torch.randn(heads, head_dim, generator=random, device=DEVICE) if rotated and page_size == 64 else None
    octavo.kv_append(shape, pool, k, v, slots.to(DEVICE), scales, mean)
    if own:
        less = k if mean is None else k - mean
        stored = [own_scales.pack(kv_dtype, part, x) for part, x in (("k", less), ("v", v))]
    else:
        stored = [(x / scales[i][None, :, None]).to(octavo.TORCH_DTYPES[kv_dtype]) for i, x in enumerate((k, v))]
    expected = numpy.full(pool.numel(), 0xA5, dtype=numpy.uint8)
    rows = [x.cpu().contiguous().view(torch.uint8).numpy().reshape(tokens, heads, -1) for x in stored]
    for i, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        page, offset = divmod(slot, page_size)
        for head in range(heads):
            granule = ((page * heads + head) * (page_size // 16) + offset // 16) * granule_bytes
            for part, (codes, row, count, size) in enumerate(layouts):
                line = numpy.zeros(row, dtype=numpy.uint8)
                line[:codes] = rows[part][i, head, :codes]
                for chunk in range(row // 16):
                    at = granule + code_starts[part] + chunk_offset(row, offset % 16, chunk)
                    expected[at:at + 16] = line[chunk * 16:chunk * 16 + 16]
                for scale in range(count):
                    at = granule + scale_starts[part] + (scale * 16 + offset % 16) * size
                    expected[at:at + size] = rows[part][i, head, codes + scale * size:codes + (scale + 1) * size]
    numpy.testing.assert_array_equal(pool.cpu().numpy(), expected)
    keep = (slots >= 0).to(DEVICE)
    back = octavo.kv_unpack(shape, pool, slots.to(DEVICE))
    for got, wanted in zip(back, stored):
        assert torch.equal(got[keep].view(torch.uint8), wanted[keep].view(torch.uint8))
    again = torch.full_like(pool, 0xA5)
    octavo.kv_pack(shape, again, stored[0], stored[1], slots.to(DEVICE))
    assert torch.equal(again, pool)


def test_append_leaves_memory_outside_the_pages_alone():
    shape = octavo.KvShape(octavo.FP8_E4M3, 16, 2, 1, 64, 0)
    pool = torch.zeros(2 * octavo.page_bytes(shape) + 4096, dtype=torch.uint8, device=DEVICE)
    k = torch.ones(3, 1, 64, device=DEVICE)
    octavo.kv_append(shape, pool, k, k, torch.tensor([32, 1 << 30, -5], dtype=torch.int32, device=DEVICE))
    assert pool.count_nonzero().item() == 0


@pytest.mark.parametrize("kv_dtype", FORMATS + OWN_SCALES)
def test_append_in_chunks_stores_the_same_bytes(kv_dtype):
    """vllm#4381: chunked prefill."""
    n, random = 2048, torch.Generator(device=DEVICE).manual_seed(2)
    k, v = (torch.randn(n, 2, 64, generator=random, device=DEVICE) * 9 for _ in range(2))
    slots = torch.randperm(n, generator=random, device=DEVICE).to(torch.int32)
    shape = octavo.KvShape(kv_dtype, 16, n // 16, 2, 64, 0)

    def pages_of(chunk):
        pages = torch.zeros(n // 16 * octavo.page_bytes(shape), dtype=torch.uint8, device=DEVICE)
        for begin in range(0, n, chunk):
            end = min(begin + chunk, n)
            octavo.kv_append(shape, pages, k[begin:end].contiguous(), v[begin:end].contiguous(),
                             slots[begin:end].contiguous())
        return pages

    whole = pages_of(n)
    for chunk in (1, 15, 16, 17, 511):
        assert torch.equal(pages_of(chunk), whole), chunk
