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


def pack(kv_dtype, x):
    """f32 [..., head_dim] to rows of bytes [..., head_dim + 4]."""
    if kv_dtype == octavo.INT8:
        x = rotate(x)
    is_fp8 = kv_dtype == octavo.FP8_PER_TOKEN_HEAD
    largest = x.abs().amax(-1, keepdim=True)
    scale = largest / torch.full_like(largest, 448.0 if is_fp8 else 127.0)  # by a scalar, torch multiplies
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = x / scale
    codes = codes.to(torch.float8_e4m3fn) if is_fp8 else codes.round().clamp(-127, 127).to(torch.int8)
    return torch.cat((codes.view(torch.uint8), scale.contiguous().view(torch.uint8)), -1)


def unpack(kv_dtype, rows):
    """Rows of bytes to f64 values, turned back where the format is rotated."""
    codes = rows[..., :-4].contiguous().view(
        torch.float8_e4m3fn if kv_dtype == octavo.FP8_PER_TOKEN_HEAD else torch.int8).to(torch.float64)
    x = codes * rows[..., -4:].contiguous().view(torch.float32).double()
    return rotate(x) if kv_dtype == octavo.INT8 else x
