"""Prefill's kernels: f64 reference and properties. Batches here are large enough to be prefilled, not decoded."""

import pytest
import torch

import octavo
import own_scales
from reference import DEVICE, Case, assert_close

FP8 = octavo.FP8_E4M3
BF16 = octavo.BFLOAT16
OWN_SCALES = [octavo.FP8_PER_TOKEN_HEAD, octavo.INT8, octavo.INT8_PER_TOKEN_HEAD, octavo.K8V4, octavo.INT4]
ALL = [octavo.FLOAT16, octavo.BFLOAT16, octavo.FP8_E4M3, octavo.FP8_E5M2, *OWN_SCALES]


def attend(case, chosen):
    """The case's attention over some of its sequences alone, as a call of their own."""
    begins = torch.tensor([0] + case.query_lengths).cumsum(0).tolist()
    q = torch.cat([case.q[begins[s]:begins[s + 1]] for s in chosen])
    return octavo.paged_attention(case.shape, case.pages, q, case.query_len[chosen], case.seq_len[chosen],
                                  case.table[chosen].contiguous(), softmax_scale=case.softmax_scale,
                                  scales=case.scale_table, sinks=case.sink_table, sliding_window=case.window,
                                  logit_softcap=case.softcap)


@pytest.mark.parametrize("kv_dtype", ALL)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 112, 128, 192, 256])
@pytest.mark.parametrize("page_size", [16, 64])
def test_prefill_is_right_for_shape(kv_dtype, head_dim, page_size):
    if head_dim % 32 != 0 and own_scales.is_int4(kv_dtype, "v"):
        pytest.skip("4-bit codes come in groups of 32 dims")
    case = Case([300, 64, 513], query_lengths=[300, 40, 150], q_heads=32 if head_dim > 128 else 64, kv_heads=4,
                kv_dtype=kv_dtype, head_dim=head_dim, page_size=page_size)
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", [FP8, BF16, *OWN_SCALES])
@pytest.mark.parametrize("heads", [(32, 32), (28, 4), (12, 1), (32, 1), (64, 8), (15, 5)])
def test_prefill_is_right_for_heads(kv_dtype, heads):
    case = Case([700, 90, 333], query_lengths=[600, 90, 133], q_heads=heads[0], kv_heads=heads[1], kv_dtype=kv_dtype)
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", ALL)
@pytest.mark.parametrize("chunk", [129, 255, 512])
@pytest.mark.parametrize("before", [0, 1, 15, 16, 127, 128, 1000, 4099])
def test_prefill_is_right_at_offset(kv_dtype, chunk, before):
    case = Case([before + chunk], query_lengths=[chunk], q_heads=64, kv_heads=8, kv_dtype=kv_dtype, page_size=32)
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", [FP8, BF16, *OWN_SCALES])
@pytest.mark.parametrize("options", [dict(window=1), dict(window=17), dict(window=128), dict(window=777), dict(softcap=30.0),
                                     dict(scales=True), dict(sinks=True),
                                     dict(window=40, softcap=5.0, scales=True, sinks=True)])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_prefill_honours_option(kv_dtype, options, head_dim):
    case = Case([1000, 100, 1130], query_lengths=[200, 100, 1], q_heads=32, kv_heads=4, kv_dtype=kv_dtype,
                head_dim=head_dim, **options)
    assert_close(case, *case.run())


@pytest.mark.parametrize("q_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kv_dtype", [FP8, BF16, octavo.INT4])
@pytest.mark.parametrize("chunk", [40, 300])
def test_prefill_takes_queries_of_type(q_dtype, kv_dtype, chunk):
    case = Case([700] * 5, query_lengths=[chunk] * 5, q_heads=32, kv_heads=8, kv_dtype=kv_dtype, q_dtype=q_dtype)
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", ALL)
def test_mixed_batch_equals_its_parts(kv_dtype):
    """Decode, a few new tokens, and prefill in one call; each part bitwise as by itself where its kernel is the same."""
    case = Case([900, 700, 33, 512, 64, 5000], query_lengths=[1, 300, 33, 4, 1, 270], q_heads=32, kv_heads=8,
                kv_dtype=kv_dtype)
    out, lse = case.run()
    assert_close(case, out, lse)
    begins = torch.tensor([0] + case.query_lengths).cumsum(0).tolist()
    for s in (1, 5):
        assert torch.equal(attend(case, [s]), out[begins[s]:begins[s + 1]])
    for s in (0, 2, 3, 4):
        torch.testing.assert_close(attend(case, [s]), out[begins[s]:begins[s + 1]], rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize("kv_dtype", [FP8, BF16, octavo.INT8, octavo.INT4])
def test_chunks_equal_the_whole(kv_dtype):
    case = Case([2000], query_lengths=[2000], q_heads=32, kv_heads=8, kv_dtype=kv_dtype)
    whole, _ = case.run()
    done = 0
    for chunk in (1, 31, 256, 512, 3, 700, 497):
        done += chunk
        part = octavo.paged_attention(case.shape, case.pages, case.q[done - chunk:done].contiguous(),
                                      torch.tensor([chunk], dtype=torch.int32, device=DEVICE),
                                      torch.tensor([done], dtype=torch.int32, device=DEVICE), case.table,
                                      softmax_scale=case.softmax_scale)
        torch.testing.assert_close(part, whole[done - chunk:done], rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize("kv_dtype", ALL)
@pytest.mark.parametrize("chunk", [50, 300])
def test_page_order_and_runs_do_not_matter(kv_dtype, chunk):
    results = []
    for order in (1, 2, 2, 3):
        case = Case([700, 333, 5000, 300], query_lengths=[chunk] * 4, q_heads=32, kv_heads=8, kv_dtype=kv_dtype,
                    page_order=order)
        results.append(case.run())
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(lse, results[0][1])


@pytest.mark.parametrize("kv_dtype", ALL)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_unused_slots_never_matter_to_prefill(kv_dtype, head_dim):
    """0 x NaN from slots past the end, for every tail length."""
    lengths = list(range(33, 103))
    case = Case(lengths, query_lengths=lengths, q_heads=8, kv_heads=2, kv_dtype=kv_dtype, head_dim=head_dim, page_size=64)
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", [FP8, BF16, *OWN_SCALES])
@pytest.mark.parametrize("chunk", [40, 300])
def test_pages_before_the_window_may_be_gone(kv_dtype, chunk):
    case = Case([1000, 477, 800], query_lengths=[chunk] * 3, q_heads=64, kv_heads=8, window=100, kv_dtype=kv_dtype)
    out, _ = case.run()
    for s, n in enumerate(case.lengths):
        gone = max(n - chunk - 100 + 1, 0) // 16
        size = octavo.page_bytes(case.shape)
        for page in case.table[s, :gone].tolist():
            case.pages[page * size:(page + 1) * size] = 0xFF
        case.table[s, :gone] = 2**31 - 1
    again, _ = case.run()
    assert torch.equal(out, again)


@pytest.mark.parametrize("kv_dtype", [FP8, octavo.INT8])
def test_what_does_not_fit_the_scratch_is_right_too(kv_dtype):
    """Two sequences of 20000 tokens want more than the scratch that calls without an engine get: 32768 of 32 heads."""
    case = Case([20000, 20000], query_lengths=[520, 515], q_heads=32, kv_heads=32, kv_dtype=kv_dtype)
    assert_close(case, *case.run())


@pytest.mark.parametrize("kv_dtype", [FP8, BF16, octavo.INT8])
def test_later_layers_reuse_the_plan(kv_dtype):
    case = Case([900, 700, 64], query_lengths=[1, 300, 64], q_heads=32, kv_heads=8, kv_dtype=kv_dtype)
    out, _ = case.run()
    again, _ = case.run(reuse_plan=True)
    assert torch.equal(out, again)


@pytest.mark.parametrize("kv_dtype", [octavo.INT8, octavo.INT8_PER_TOKEN_HEAD, octavo.K8V4, octavo.INT4])
def test_nan_of_a_token_reaches_its_head_only(kv_dtype):
    case = Case([300, 300], query_lengths=[300, 300], kv_dtype=kv_dtype, q_heads=16, kv_heads=2)
    clean, _ = case.run()
    case.v[50, 1, 3] = float("nan")
    case.place()
    out, _ = case.run()
    assert torch.isnan(out[50:300, 8:]).all()
    assert torch.equal(out[:, :8], clean[:, :8]) and torch.equal(out[300:], clean[300:])
    assert torch.equal(out[:48], clean[:48])  # 16 tokens of 8 heads share a tile


@pytest.mark.parametrize("kv_dtype", OWN_SCALES)
def test_values_beyond_f16_saturate(kv_dtype):
    """Prefill multiplies scales in and keeps f16."""
    case = Case([300], query_lengths=[300], kv_dtype=kv_dtype, q_heads=32, kv_heads=8)
    case.v[:, :, 5] = 1e6
    case.place()
    out, _ = case.run()
    assert torch.isfinite(out).all()
    if not own_scales.is_rotated(kv_dtype):
        torch.testing.assert_close(out[:, :, 5], torch.full_like(out[:, :, 5], 65504.0), rtol=2e-3, atol=0)


@pytest.mark.parametrize("kv_dtype", [FP8, BF16])
def test_prefill_agrees_with_torch_sdpa(kv_dtype):
    case = Case([4096], query_lengths=[1024], q_heads=32, kv_heads=8, kv_dtype=kv_dtype, q_dtype=torch.bfloat16)
    out, _ = case.run()
    k, v = (x.float().transpose(0, 1)[None] for x in case.stored())
    mask = torch.ones(1024, 4096, dtype=torch.bool, device=DEVICE).tril(4096 - 1024)
    sdpa = torch.nn.functional.scaled_dot_product_attention(
        case.q.float().transpose(0, 1)[None], k, v, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)
    torch.testing.assert_close(out.float(), sdpa, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("kv_dtype", [FP8, BF16, octavo.FP8_PER_TOKEN_HEAD, octavo.INT8_PER_TOKEN_HEAD, octavo.INT8])
@pytest.mark.parametrize("case", [dict(lengths=[140, 300], query_lengths=[140, 90], sinks=True),
                                  dict(lengths=[200, 40], query_lengths=[100, 35], window=50, scales=True),
                                  dict(lengths=[160, 1], query_lengths=[150, 1], head_dim=80)])
def test_small_prefill_for_the_sanitizer(kv_dtype, case):
    case = Case(q_heads=64, kv_heads=8, kv_dtype=kv_dtype, **case)
    assert_close(case, *case.run())
