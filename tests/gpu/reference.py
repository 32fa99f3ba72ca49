"""Attention cases for the GPU tests, and what they should give: f64 over the dequantised stored bytes."""

import math
from dataclasses import dataclass, field

import numpy
import torch

import octavo
import own_scales

DEVICE = "cuda"
POISON = 0xFF  # NaN in every format


@dataclass
class Case:
    lengths: list  # seq_len of each sequence
    q_heads: int = 8
    kv_heads: int = 2
    head_dim: int = 128
    page_size: int = 16
    kv_dtype: int = octavo.FP8_E4M3
    query_lengths: list = None  # default: 1 each
    window: int = 0
    softcap: float = 0.0
    scales: bool = False
    sinks: bool = False
    q_dtype: torch.dtype = torch.float32
    magnitude: float = 1.0  # of keys
    seed: int = 0
    spare_pages: int = 3
    page_order: int = 1  # seed of the order of pages
    pages: torch.Tensor = None
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        self.query_lengths = self.query_lengths or [1] * len(self.lengths)
        random = torch.Generator(device=DEVICE).manual_seed(self.seed)
        total = sum(self.lengths)

        def normal(*size):
            return torch.randn(*size, generator=random, device=DEVICE)

        self.k = normal(total, self.kv_heads, self.head_dim) * self.magnitude
        self.v = normal(total, self.kv_heads, self.head_dim)
        q = normal(sum(self.query_lengths), self.q_heads, self.head_dim)
        # Values that every stored format's 16-bit arithmetic holds exactly, so that the reference has the same q.
        self.q = q.to(torch.bfloat16).to(self.q_dtype)
        self.scale_table = (torch.rand(2, self.kv_heads, generator=random, device=DEVICE) * 0.05 + 0.03
                            if self.scales and not own_scales.has_own_scales(self.kv_dtype) else None)
        self.sink_table = normal(self.q_heads) * 2 if self.sinks else None
        self.place()

    def place(self):
        """Puts the tokens into a poisoned pool, pages in random order."""
        needed = [-(-n // self.page_size) for n in self.lengths]
        num_pages = sum(needed) + self.spare_pages
        order = numpy.random.RandomState(self.page_order).permutation(num_pages)
        self.shape = octavo.KvShape(self.kv_dtype, self.page_size, num_pages, self.kv_heads, self.head_dim, 0)
        if self.pages is None:
            self.pages = torch.full((num_pages * octavo.page_bytes(self.shape),), POISON, dtype=torch.uint8, device=DEVICE)
        table = numpy.full((len(self.lengths), max(max(needed), 1)), -7, dtype=numpy.int32)
        slots, used = [], 0
        for s, n in enumerate(self.lengths):
            table[s, :needed[s]] = order[used:used + needed[s]]
            used += needed[s]
            t = numpy.arange(n)
            slots.append(table[s, t // self.page_size].astype(numpy.int64) * self.page_size + t % self.page_size)
        self.table = torch.from_numpy(table).to(DEVICE)
        self.slots = torch.from_numpy(numpy.concatenate(slots)).to(torch.int32).to(DEVICE)
        octavo.kv_append(self.shape, self.pages, self.k, self.v, self.slots, self.scale_table)
        self.seq_len = torch.tensor(self.lengths, dtype=torch.int32, device=DEVICE)
        self.query_len = torch.tensor(self.query_lengths, dtype=torch.int32, device=DEVICE)
        self.softmax_scale = 1 / math.sqrt(self.head_dim)

    def run(self, **options):
        lse = torch.full(self.q.shape[:2], float("nan"), device=DEVICE)
        out = torch.full_like(self.q, float("nan"))
        octavo.paged_attention(self.shape, self.pages, self.q, self.query_len, self.seq_len, self.table,
                               softmax_scale=self.softmax_scale, scales=self.scale_table, sinks=self.sink_table,
                               sliding_window=self.window, logit_softcap=self.softcap, out=out, lse=lse, **options)
        return out, lse

    def stored(self):
        """K and V as stored, dequantised to f64: [total tokens, kv heads, head_dim]."""
        k, v = octavo.kv_unpack(self.shape, self.pages, self.slots)
        if own_scales.has_own_scales(self.kv_dtype):
            return tuple(own_scales.unpack(self.kv_dtype, part, x, self.head_dim) for part, x in (("k", k), ("v", v)))
        k, v = k.double(), v.double()
        if self.scale_table is not None:
            k *= self.scale_table[0].double()[None, :, None]
            v *= self.scale_table[1].double()[None, :, None]
        return k, v

    def expected(self):
        """(out, lse, spread) in f64; spread is the sum of weight x |v|, which errors of the weights scale with."""
        k_all, v_all = self.stored()
        group = self.q_heads // self.kv_heads
        outs, lses, spreads, token, query = [], [], [], 0, 0
        for n, m in zip(self.lengths, self.query_lengths):
            k = k_all[token:token + n].repeat_interleave(group, 1)
            v = v_all[token:token + n].repeat_interleave(group, 1)
            q = self.q[query:query + m].double()
            token, query = token + n, query + m
            s = torch.einsum("qhd,khd->hqk", q, k) * self.softmax_scale
            if self.softcap > 0:
                s = self.softcap * torch.tanh(s / self.softcap)
            position = torch.arange(n - m, n, device=DEVICE)[:, None]
            key = torch.arange(n, device=DEVICE)[None, :]
            seen = key <= position
            if self.window > 0:
                seen &= key > position - self.window
            s = s.masked_fill(~seen[None], -math.inf)
            lse = torch.logsumexp(s, -1)
            if self.sink_table is not None:
                lse = torch.logaddexp(lse, self.sink_table.double()[:, None])
            p = torch.exp(s - lse[..., None])
            p = torch.nan_to_num(p)  # rows that see nothing: 0
            outs.append(torch.einsum("hqk,khd->qhd", p, v))
            spreads.append(torch.einsum("hqk,khd->qhd", p, v.abs()))
            lses.append(lse.T)
        return torch.cat(outs), torch.cat(lses), torch.cat(spreads)


def assert_close(case, out, lse):
    """Design section 7.2: |err| <= 8e-4 + 2.01/128 |ref|, cosine difference <= 5e-6; relative error <= 0.3 %.

    Prefill over bfloat16 rounds the softmax's weights to 8 bits: each may be off by 2^-9 of itself. Over formats with
    scales of their own it rounds keys, values and weights to 11 bits, which adds up to as much.
    """
    ref, ref_lse, spread = case.expected()
    out = out.double()
    assert torch.isfinite(out).all(), f"{(~torch.isfinite(out)).sum().item()} outputs are not finite"
    error = (out - ref).abs()
    allowed = 8e-4 + 2.01 / 128 * ref.abs()
    rounds_values = case.kv_dtype == octavo.BFLOAT16 or own_scales.has_own_scales(case.kv_dtype)
    if rounds_values and max(case.query_lengths) > 1:
        allowed += spread / 512
    worst = (error - allowed).max().item()
    assert worst <= 0, f"worst error beyond the tolerance: {worst} at {(error - allowed).argmax().item()} of {tuple(ref.shape)}"
    cosine = 1 - 2 * (out * ref).sum() / (out.square().sum() + ref.square().sum())
    assert cosine.item() <= 5e-6, f"cosine difference {cosine.item():.2e}"
    relative = (error.square().sum() / ref.square().sum()).sqrt().item()
    assert relative <= 3e-3, f"relative error {relative:.2e}"
    lse_error = ((lse.double() - ref_lse).abs() / ref_lse.abs().clamp(min=1)).max().item()
    # Decode rounds a rotated q to f16, prefill keys times scales of their own; all else is exact.
    rounds = own_scales.is_rotated(case.kv_dtype) or (
        own_scales.has_own_scales(case.kv_dtype) and max(case.query_lengths) > 1)
    lse_allowed = 1e-3 * max(case.magnitude, 1) if rounds else 8 / 65536
    assert lse_error <= lse_allowed, f"LSE error {lse_error:.2e}"
    return relative
