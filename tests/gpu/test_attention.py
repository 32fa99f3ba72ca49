"""Paged attention: f64 reference, properties, and the regressions that peers met (design section 7)."""

import math

import pytest
import torch

import octavo
import own_scales
from reference import DEVICE, Case, assert_close

FP8 = octavo.FP8_E4M3
OWN_SCALES = [octavo.FP8_PER_TOKEN_HEAD, octavo.INT8, octavo.INT8_PER_TOKEN_HEAD, octavo.K8V4, octavo.INT4]
ALL = [octavo.FLOAT16, octavo.BFLOAT16, octavo.FP8_E4M3, octavo.FP8_E5M2, *OWN_SCALES]
EDGES = [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 127, 128, 129, 255, 257, 500, 1000, 4099]


@pytest.mark.parametrize("kv_dtype", ALL)
@pytest.mark.parametrize("page_size", [16, 32, 64])
def test_attention_is_right_around_every_edge(kv_dtype, page_size):
    case = Case(EDGES, kv_dtype=kv_dtype, page_size=page_size)
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", ALL)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 112, 128, 192, 256])
@pytest.mark.parametrize("heads", [(4, 4), (8, 1), (12, 1), (16, 1), (7, 1)])
def test_attention_is_right_for_shape(kv_dtype, head_dim, heads):
    if head_dim % 32 != 0 and own_scales.is_int4(kv_dtype, "v"):
        with pytest.raises(octavo.OctavoError, match="multiple of 32"):
            Case([1], kv_dtype=kv_dtype, head_dim=head_dim)
        return
    case = Case([1, 17, 100, 333], kv_dtype=kv_dtype, head_dim=head_dim, q_heads=heads[0], kv_heads=heads[1])
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", ALL)
@pytest.mark.parametrize("query_lengths", [[1, 2, 3, 4], [8, 1, 5, 7], [17, 100, 1, 300]])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_attention_is_causal_for_several_new_tokens(kv_dtype, query_lengths, head_dim):
    case = Case([20, 131, 64, 301], query_lengths=query_lengths, kv_dtype=kv_dtype, head_dim=head_dim)
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, *OWN_SCALES])
@pytest.mark.parametrize("options", [dict(window=1), dict(window=17), dict(window=128), dict(softcap=30.0),
                                     dict(scales=True), dict(sinks=True), dict(window=40, softcap=5.0, scales=True, sinks=True)])
@pytest.mark.parametrize("query_lengths", [None, [3, 2, 4, 40]])
def test_attention_honours_option(kv_dtype, options, query_lengths):
    if options.get("scales"):
        options = dict(options)
    case = Case([5, 100, 555, 1030] if query_lengths is None else [5, 100, 555, 1030], kv_dtype=kv_dtype,
                query_lengths=query_lengths, **options)
    assert_close(case, *case.run())


@pytest.mark.parametrize("q_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, *OWN_SCALES])
def test_attention_takes_16_bit_queries(q_dtype, kv_dtype):
    case = Case([1, 50, 3000], kv_dtype=kv_dtype, q_dtype=q_dtype)
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, *OWN_SCALES])
@pytest.mark.parametrize("lengths", [[131072], [65536] + [4096] * 7, [512] * 64, [16] * 256, [1] * 256])
def test_attention_is_right_for_long_and_mixed_batches(kv_dtype, lengths):
    case = Case(lengths, kv_dtype=kv_dtype, q_heads=4, kv_heads=1 if max(lengths) > 100000 else 2)
    assert_close(case, *case.run())


def test_windows_pages_may_be_gone():
    """Page ids and bytes before the window are never read (their pages may belong to others)."""
    case = Case([1000, 77], window=100, page_size=16)
    out, _ = case.run()
    for s, n in enumerate(case.lengths):
        gone = max(n - 100, 0) // 16
        for page in case.table[s, :gone].tolist():
            size = octavo.page_bytes(case.shape)
            case.pages[page * size:(page + 1) * size] = 0xFF
        case.table[s, :gone] = 2**31 - 1
    again, _ = case.run()
    assert torch.equal(out, again)


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, *OWN_SCALES])
def test_page_order_does_not_matter(kv_dtype):
    results = []
    for order in (1, 2, 3):
        case = Case([700, 33, 5000], kv_dtype=kv_dtype, page_order=order)
        results.append(case.run())
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(lse, results[0][1])


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, *OWN_SCALES])
def test_runs_and_graph_replays_give_the_same_bits(kv_dtype):
    case = Case([9000, 1, 16, 300, 2500], kv_dtype=kv_dtype)
    out, lse = case.run()
    for _ in range(20):
        again, lse_again = case.run()
        assert torch.equal(out, again) and torch.equal(lse, lse_again)
    graph = torch.cuda.CUDAGraph()
    target = torch.empty_like(case.q)
    with torch.cuda.graph(graph):
        for layer in range(8):
            octavo.paged_attention(case.shape, case.pages, case.q, case.query_len, case.seq_len, case.table,
                                   softmax_scale=case.softmax_scale, reuse_plan=layer > 0, out=target)
    for _ in range(50):
        target.fill_(math.nan)
        graph.replay()
        assert torch.equal(out, target)


def test_graph_serves_other_lengths_and_query_lengths():
    """Captured once at batch 8 with room for 4 queries each; lengths come from the device at every replay."""
    torch.manual_seed(0)
    case = Case([600] * 8, query_lengths=[4] * 8)
    seq_len, query_len, q = case.seq_len.clone(), case.query_len.clone(), case.q.clone()
    out = torch.empty_like(q)

    def step():
        octavo.paged_attention(case.shape, case.pages, q, query_len, seq_len, case.table,
                               softmax_scale=case.softmax_scale, max_query_len=4, out=out)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for lengths in ([600] * 8, [4, 17, 33, 64, 100, 599, 5, 48], [32] * 8):
        seq_len.copy_(torch.tensor(lengths, dtype=torch.int32))
        graph.replay()
        replayed = out.clone()
        step()
        assert torch.equal(replayed, out)
        k, v = case.stored()
        for s, n in enumerate(lengths):
            keys, values = k[600 * s:600 * s + n], v[600 * s:600 * s + n]
            for i in range(4):
                seen = n - 3 + i
                weights = torch.einsum("hgd,khd->hgk", q[4 * s + i].double().view(2, 4, 128), keys[:seen]) * case.softmax_scale
                expected = torch.einsum("hgk,khd->hgd", torch.softmax(weights, -1), values[:seen]).reshape(8, 128)
                torch.testing.assert_close(out[4 * s + i].double(), expected, rtol=0.016, atol=8e-4)


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, octavo.INT8])
def test_graph_serves_every_length_with_every_query_length(kv_dtype):
    """flashinfer#3871: captured once at batch 8, replayed for each pair of them, against kernels enqueued one by one."""
    case = Case([160] * 8, query_lengths=[4] * 8, kv_dtype=kv_dtype)
    seq_len, query_len = case.seq_len.clone(), case.query_len.clone()
    out = torch.empty_like(case.q)

    def step():
        octavo.paged_attention(case.shape, case.pages, case.q, query_len, seq_len, case.table,
                               softmax_scale=case.softmax_scale, max_query_len=4, out=out)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    pairs = [(n, m) for n in (*range(1, 36), 63, 64, 65, 127, 128, 129, 160) for m in range(1, min(n, 4) + 1)]
    random = torch.Generator().manual_seed(4)
    pairs = [pairs[i] for i in torch.randperm(len(pairs), generator=random)]
    for begin in range(0, len(pairs), 8):
        batch = (pairs[begin:] + pairs)[:8]
        seq_len.copy_(torch.tensor([n for n, _ in batch], dtype=torch.int32))
        query_len.copy_(torch.tensor([m for _, m in batch], dtype=torch.int32))
        total = sum(m for _, m in batch)
        out.fill_(math.nan)
        graph.replay()
        replayed = out[:total].clone()
        out.fill_(math.nan)
        step()
        assert torch.isfinite(replayed).all() and torch.equal(replayed, out[:total]), batch


def test_batched_equals_single():
    case = Case([40, 700, 3, 1234])
    out, _ = case.run()
    token = 0
    for s, n in enumerate(case.lengths):
        one = octavo.paged_attention(case.shape, case.pages, case.q[s:s + 1].contiguous(), case.query_len[s:s + 1],
                                     case.seq_len[s:s + 1], case.table[s:s + 1].contiguous(), softmax_scale=case.softmax_scale)
        torch.testing.assert_close(one[0], out[s], rtol=1e-3, atol=2e-4)
        token += n


def test_chunked_prefill_equals_whole():
    case = Case([300], query_lengths=[300])
    whole, _ = case.run()
    done = 0
    for chunk in (1, 31, 100, 168):
        done += chunk
        part = octavo.paged_attention(case.shape, case.pages, case.q[done - chunk:done].contiguous(),
                                      torch.tensor([chunk], dtype=torch.int32, device=DEVICE),
                                      torch.tensor([done], dtype=torch.int32, device=DEVICE), case.table,
                                      softmax_scale=case.softmax_scale)
        torch.testing.assert_close(part, whole[done - chunk:done], rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("kv_dtype", ALL)
def test_unused_slots_never_matter(kv_dtype):
    """flash-attention#1745, vllm#936, aiter#5401: 0 x NaN from slots past the end, for every tail length."""
    lengths = list(range(1, 70))
    case = Case(lengths, kv_dtype=kv_dtype, page_size=64)
    assert_close(case, *case.run())


@pytest.mark.parametrize("page_size", [16, 32, 64])
def test_every_value_page_is_its_own(page_size):
    """flashinfer#3022: V of a wrong page."""
    case = Case([5 * page_size + 3], page_size=page_size, q_heads=4, kv_heads=1)
    page = torch.arange(case.lengths[0], device=DEVICE) // page_size
    case.v = (page + 1.0)[:, None, None].expand(-1, 1, 128).contiguous()
    case.place()
    assert_close(case, *case.run())


def test_pool_beyond_4_gib():
    """flashinfer#3136: 32-bit page offsets."""
    case = Case([100], q_heads=4, kv_heads=1, head_dim=64, page_size=16)
    size = octavo.page_bytes(case.shape)
    num_pages = (5 << 30) // size
    pool = torch.full((num_pages * size,), 0xFF, dtype=torch.uint8, device=DEVICE)
    case.shape.num_pages = num_pages
    case.pages = pool
    pages = torch.arange(num_pages - 7, num_pages, dtype=torch.int32, device=DEVICE)
    case.table = pages[None].contiguous()
    t = torch.arange(100, device=DEVICE)
    case.slots = (pages.long()[t // 16] * 16 + t % 16).to(torch.int32)
    octavo.kv_append(case.shape, pool, case.k, case.v, case.slots)
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, *OWN_SCALES])
def test_soft_cap_with_poisoned_tails(kv_dtype):
    """flashinfer#3890: the transform on keys past the end."""
    case = Case([33, 1, 18], softcap=20.0, kv_dtype=kv_dtype, magnitude=4.0)
    assert_close(case, *case.run())


@pytest.mark.parametrize("value", [-1e4, -6e4, 1e4])
def test_extreme_logits(value):
    """flashinfer#4401."""
    case = Case([40, 300], q_heads=4, kv_heads=1)
    case.q = torch.full_like(case.q, value / 448 / 128 * math.sqrt(128)).to(torch.bfloat16).to(case.q_dtype)
    case.k = torch.full_like(case.k, 448.0)
    case.place()
    out, lse = case.run()
    assert_close(case, out, lse)


def test_append_then_attention_under_overlap():
    """flashinfer#4199: attention must see the keys that the kernel before it wrote."""
    case = Case([257] * 4)
    random = torch.Generator(device=DEVICE).manual_seed(9)
    ends = torch.tensor([256 + 257 * s for s in range(4)], device=DEVICE)
    slots = case.slots[ends].contiguous()
    graph = torch.cuda.CUDAGraph()
    k = torch.randn(4, 2, 128, generator=random, device=DEVICE)
    out = torch.empty_like(case.q)
    octavo.kv_append(case.shape, case.pages, k, k, slots)
    with torch.cuda.graph(graph):
        octavo.kv_append(case.shape, case.pages, k, k, slots)
        octavo.paged_attention(case.shape, case.pages, case.q, case.query_len, case.seq_len, case.table,
                               softmax_scale=case.softmax_scale, out=out)
    for _ in range(200):
        k.copy_(torch.randn(4, 2, 128, generator=random, device=DEVICE) * 3)
        graph.replay()
        torch.cuda.synchronize()
        again = case.run()[0]
        assert torch.equal(out, again)


def test_a_hundred_thousand_appends_are_seen_by_the_attention_behind_them():
    """flashinfer#4199: pairs of kernels that overlap, against the same with nothing beside them."""
    case = Case([257] * 4)
    random = torch.Generator(device=DEVICE).manual_seed(9)
    slots = case.slots[torch.tensor([256 + 257 * s for s in range(4)], device=DEVICE)].contiguous()
    keys = torch.randn(50, 4, 2, 128, generator=random, device=DEVICE) * 3
    expected, found = (torch.empty(50, *case.q.shape, device=DEVICE) for _ in range(2))

    def pair(k, out, synchronize):
        octavo.kv_append(case.shape, case.pages, k, k, slots)
        synchronize()
        octavo.paged_attention(case.shape, case.pages, case.q, case.query_len, case.seq_len, case.table,
                               softmax_scale=case.softmax_scale, out=out)
        synchronize()

    for k, out in zip(keys, expected):
        pair(k, out, torch.cuda.synchronize)
    assert len({out.sum().item() for out in expected}) == 50
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for k, out in zip(keys, found):
            pair(k, out, lambda: None)
    wrong = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for _ in range(2000):
        graph.replay()
        wrong += (found != expected).flatten(1).any(1).sum()
    assert wrong.item() == 0


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, *OWN_SCALES])
def test_needle_is_found_at_every_granule(kv_dtype):
    """A key that stands out, at each granule edge of 128k tokens; its value names the place."""
    n = 131072
    case = Case([n], q_heads=4, kv_heads=1, kv_dtype=kv_dtype, page_size=16)
    base = torch.zeros(n, 1, 128, device=DEVICE)
    values = torch.zeros(n, 1, 128, device=DEVICE)
    case.q = torch.zeros_like(case.q)
    case.q[:, :, 0] = 64.0
    octavo.kv_append(case.shape, case.pages, base, values, case.slots)
    hit_k = torch.zeros(1, 1, 128, device=DEVICE)
    hit_k[..., 0] = 8.0  # logit 64 * 8 / sqrt(128) = 45 against 0 elsewhere
    hit_v = torch.ones(1, 1, 128, device=DEVICE)
    zero = torch.zeros(1, 1, 128, device=DEVICE)
    places = sorted({min(max(g * 16 + d, 0), n - 1) for g in range(0, n // 16, 97) for d in (0, 15)} | {0, n - 1})
    bad = []
    flags = []
    for place in places:
        slot = case.slots[place:place + 1]
        octavo.kv_append(case.shape, case.pages, hit_k, hit_v, slot)
        out = octavo.paged_attention(case.shape, case.pages, case.q, case.query_len, case.seq_len, case.table,
                                     softmax_scale=case.softmax_scale, reuse_plan=place != places[0])
        flags.append((out - 1).abs().max())
        octavo.kv_append(case.shape, case.pages, zero, zero, slot)
    worst = torch.stack(flags)
    bad = [places[i] for i in (worst > 1e-3).nonzero().flatten().tolist()]
    assert not bad, f"{len(bad)} of {len(places)} needles missed, first {bad[:5]}"


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, *OWN_SCALES])
def test_equal_weights_add_up_over_128k_tokens(kv_dtype):
    """Constant V under a uniform softmax gives that constant: drift of sums and weights."""
    case = Case([131072], q_heads=1, kv_heads=1, kv_dtype=kv_dtype)
    case.k.fill_(0.5)
    case.v.fill_(1.0)
    case.place()
    out, _ = case.run()
    assert (out - 1).abs().max().item() < 2e-3


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, *OWN_SCALES])
def test_error_does_not_grow_with_length(kv_dtype):
    """vllm#15865, vllm#23813: sums of many small weights, to the same relative error from 1k to 128k keys."""
    errors = []
    for n in (1024, 8192, 32768, 131072):
        case = Case([n], q_heads=4, kv_heads=1, kv_dtype=kv_dtype, magnitude=0.25)
        out, lse = case.run()
        errors.append(assert_close(case, out, lse))
    assert errors[-1] <= 2 * errors[0] + 1e-4, errors


def test_fp8_gives_what_16_bits_give_for_values_that_both_hold():
    """TRT-LLM#3675: the same scaling of both paths."""
    results = []
    for kv_dtype in (octavo.FLOAT16, FP8, octavo.FP8_E5M2):
        case = Case([300, 17, 1000], kv_dtype=kv_dtype)
        case.k, case.v = (x.to(torch.float8_e5m2).float().clamp(-4, 4) for x in (case.k, case.v))
        case.k[case.k.abs() < 0.0625], case.v[case.v.abs() < 0.0625] = 0, 0  # below E4M3's normal numbers
        case.place()
        results.append(case.run())
    for out, lse in results[1:]:
        torch.testing.assert_close(out, results[0][0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(lse, results[0][1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.FP8_E5M2, octavo.FLOAT16])
def test_values_beyond_the_format_saturate(kv_dtype):
    """sglang#31652, Qwen3#840: no NaN from a cast that overflows."""
    largest = {FP8: 448.0, octavo.FP8_E5M2: 57344.0, octavo.FLOAT16: 65504.0}[kv_dtype]
    case = Case([60, 9], kv_dtype=kv_dtype, q_heads=4, kv_heads=1)
    case.k[::3] *= 1e4
    case.v[::2] = 1e9
    case.q.mul_(2.0 ** -10)
    case.place()
    k, v = case.stored()
    assert torch.isfinite(k).all() and (v[::2] == largest).all()
    out, lse = case.run()
    assert torch.isfinite(out).all()
    assert (out.double() - case.expected()[0]).abs().max() <= 3e-3 * largest


@pytest.mark.parametrize("kv_dtype", [octavo.BFLOAT16, FP8])
def test_agrees_with_torch_sdpa(kv_dtype):
    case = Case([2048] * 4, q_heads=8, kv_heads=2, kv_dtype=kv_dtype)
    out, _ = case.run()
    k, v = (x.float().view(4, 2048, 2, 128).transpose(1, 2) for x in case.stored())
    sdpa = torch.nn.functional.scaled_dot_product_attention(
        case.q.float().view(4, 1, 8, 128).transpose(1, 2), k, v, enable_gqa=True).transpose(1, 2).reshape(4, 8, 128)
    torch.testing.assert_close(out, sdpa, rtol=0.016, atol=8e-4)


@pytest.mark.parametrize("kv_dtype", OWN_SCALES)
@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1e6, 1e30])
def test_value_scales_of_any_size(kv_dtype, magnitude):
    """Weights times V's scales pass through f16, in units that follow the scales."""
    case = Case([300, 17, 700], kv_dtype=kv_dtype)
    size = torch.logspace(0, -8, case.v.shape[0], device=DEVICE)[torch.randperm(case.v.shape[0], device=DEVICE)]
    case.v = case.v * magnitude * size[:, None, None]
    case.place()
    out, lse = case.run()
    expected = case.expected()[0]
    assert torch.isfinite(out).all()
    # Scales that f16 has no number for are 1, and all codes 0.
    error, size = (out.double() - expected).norm().item(), expected.norm().item()
    # The 4-bit formats' scales are f16, which has few bits left for numbers of 1e-6.
    limit = 3e-2 if magnitude == 1e-6 and kv_dtype in (octavo.K8V4, octavo.INT4) else 3e-3
    assert error <= limit * size, f"error {error:.2e} of {size:.2e}"


@pytest.mark.parametrize("kv_dtype", [octavo.INT8, octavo.INT8_PER_TOKEN_HEAD, octavo.K8V4, octavo.INT4])
def test_nan_reaches_its_head_only(kv_dtype):
    case = Case([100, 100], kv_dtype=kv_dtype, q_heads=4, kv_heads=2)
    clean, _ = case.run()
    case.v[50, 1, 3] = math.nan
    case.place()
    out, _ = case.run()
    assert torch.isnan(out[0, 2:]).all()
    assert torch.equal(out[0, :2], clean[0, :2]) and torch.equal(out[1], clean[1])


def test_errors_name_what_was_found():
    case = Case([16])
    with pytest.raises(octavo.OctavoError, match="scales must be NULL: kv_dtype 6 has scales of its own"):
        own = Case([16], kv_dtype=octavo.INT8)
        own.scale_table = torch.ones(2, 2, device=DEVICE)
        own.run()
    with pytest.raises(octavo.OctavoError, match="head_dim.*found 40"):
        small = Case([16], head_dim=40)
        small.run()
    with pytest.raises(octavo.OctavoError, match="at most 32 q heads.*found 64"):
        Case([16], q_heads=64, kv_heads=1).run()
    case.shape.page_size = 48
    with pytest.raises(octavo.OctavoError, match="page_size must be 16, 32 or 64, found 48"):
        case.run()


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.BFLOAT16, *OWN_SCALES])
@pytest.mark.parametrize("case", [dict(lengths=[1, 17, 700]), dict(lengths=[40, 3], query_lengths=[40, 2], sinks=True),
                                  dict(lengths=[2000], q_heads=3, kv_heads=1, window=100, scales=True, sinks=True)])
def test_small_grid_for_the_sanitizer(kv_dtype, case):
    case = Case(kv_dtype=kv_dtype, **case)
    assert_close(case, *case.run())
