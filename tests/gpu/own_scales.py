"""Rows of the KV formats that keep scales with the tokens: quantised and read back as octavo.h describes them."""

import torch

import octavo


def has_own_scales(kv_dtype):
    return kv_dtype not in octavo.TORCH_DTYPES


def rotate(x):
    """H x over the last dimension, block by block over the largest power of two that divides it."""
    size = x.shape[-1]
    block = size & -size
    y = x.reshape(*x.shape[:-1], size // block, block)
    distance = 1
    while distance < block:
        pairs = y.reshape(*y.shape[:-1], block // (2 * distance), 2, distance)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        y = torch.stack((low + high, low - high), -2).reshape(y.shape)
        distance *= 2
    norm = torch.tensor(1.0, dtype=x.dtype) / torch.tensor(float(block), dtype=x.dtype).sqrt()
    return (y * norm.to(x.device)).reshape(x.shape)


def is_rotated(kv_dtype):
    return kv_dtype in (octavo.INT8, octavo.K8V4, octavo.INT4)


def is_int4(kv_dtype, part):
    return kv_dtype == octavo.INT4 or kv_dtype == octavo.K8V4 and part == "v"


def pack(kv_dtype, part, x):
    """f32 [..., head_dim] to rows of bytes, codes then scales."""
    if is_rotated(kv_dtype):
        x = rotate(x)
    is_fp8, int4 = kv_dtype == octavo.FP8_PER_TOKEN_HEAD, is_int4(kv_dtype, part)
    groups = x.reshape(*x.shape[:-1], -1, 32) if int4 else x[..., None, :]
    largest = groups.abs().amax(-1, keepdim=True)
    top = 448.0 if is_fp8 else 7.0 if int4 else 127.0
    scale = largest / torch.full_like(largest, top)  # by a scalar, torch multiplies
    if int4:
        scale = scale.clamp(max=65504.0).half()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = groups / scale.float()
    codes = codes.to(torch.float8_e4m3fn) if is_fp8 else codes.round().clamp(-top, top).to(torch.int8)
    codes = codes.reshape(x.shape)
    if int4:
        nibbles = (codes + 8).view(torch.uint8)
        codes = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    return torch.cat((codes.contiguous().view(torch.uint8), scale.squeeze(-1).contiguous().view(torch.uint8)), -1)


def unpack(kv_dtype, part, rows, head_dim):
    """Rows of bytes to f64 values, turned back where the format is rotated."""
    int4 = is_int4(kv_dtype, part)
    end = head_dim // 2 if int4 else head_dim
    codes, scale = rows[..., :end].contiguous(), rows[..., end:].contiguous().view(torch.float16 if int4 else torch.float32)
    if int4:
        codes = torch.stack((codes & 15, codes >> 4), -1).reshape(*rows.shape[:-1], head_dim).double() - 8
        scale = scale.repeat_interleave(32, -1)
    else:
        codes = codes.view(torch.float8_e4m3fn if kv_dtype == octavo.FP8_PER_TOKEN_HEAD else torch.int8).double()
    x = codes * scale.double()
    return rotate(x) if is_rotated(kv_dtype) else x
