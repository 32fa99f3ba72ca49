"""Octavo's FP8 paged attention from PyTorch: an FP8 cache of two sequences, one decode step.

    deno task build --backend cuda --arch sm_90a
    PYTHONPATH=tests/gpu python examples/paged_attention.py
"""

import torch

import octavo

PAGE_SIZE, KV_HEADS, Q_HEADS, HEAD_DIM = 16, 8, 32, 128
lengths = [100, 333]
pages_of = [-(-n // PAGE_SIZE) for n in lengths]
shape = octavo.KvShape(octavo.FP8_E4M3, PAGE_SIZE, sum(pages_of), KV_HEADS, HEAD_DIM, 0)
pages = torch.zeros(sum(pages_of) * octavo.page_bytes(shape), dtype=torch.uint8, device="cuda")

# Any page may belong to any sequence: here in random order.
order = torch.randperm(sum(pages_of), dtype=torch.int32)
table = torch.zeros(len(lengths), max(pages_of), dtype=torch.int32)
slots, first = [], 0
for s, n in enumerate(lengths):
    table[s, :pages_of[s]] = order[first:first + pages_of[s]]
    first += pages_of[s]
    position = torch.arange(n)
    slots.append(table[s, position // PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE)

k = torch.randn(sum(lengths), KV_HEADS, HEAD_DIM, device="cuda")
v = torch.randn(sum(lengths), KV_HEADS, HEAD_DIM, device="cuda")
octavo.kv_append(shape, pages, k, v, torch.cat(slots).to(torch.int32).cuda())

q = torch.randn(len(lengths), Q_HEADS, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
one = torch.ones(len(lengths), dtype=torch.int32, device="cuda")
out = octavo.paged_attention(shape, pages, q, one, torch.tensor(lengths, dtype=torch.int32, device="cuda"), table.cuda(),
                             softmax_scale=HEAD_DIM ** -0.5)
print(out.shape, out.dtype, f"mean {out.float().mean().item():.4f}")
