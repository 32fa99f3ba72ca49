"""Whole models on the GPU against the CPU build, on the same step buffers.

The CPU build computes in f32 (tests/native holds it to an f64 reference); the GPU rounds activations to compute_dtype and
sums in another order, so logits agree within LIMITS, not bit for bit.
"""

import subprocess
import sys

import numpy
import pytest

import model as models
from model import Engine, Model, Recipe, make_model

# Largest difference of a logit as a part of the logits' standard deviation. bf16 has 8 bits of mantissa, f16 has 11.
LIMITS = {models.BF16: 0.08, models.F16: 0.012}
GPU = models.open_library("cuda")
CPU = models.open_library("cpu")


def random_tokens(count, seed, vocab_size=520):
    return [int(token) for token in numpy.random.default_rng(seed).integers(0, vocab_size, count)]


def difference(actual, expected):
    """The largest difference in units of the expected logits' standard deviation."""
    assert numpy.isfinite(actual).all()
    return float(numpy.abs(actual - expected).max() / expected.std())


def both(file, compute_dtype=models.BF16, **settings):
    """Engines of both builds on the same model."""
    return [Engine(Model(library, file, compute_dtype=compute_dtype), **settings) for library in (GPU, CPU)]


def rows_of(lengths, seed=3, **common):
    return [{"tokens": random_tokens(length, seed + s), "pages": range(8 * s, 8 * s + 8), **common}
            for s, length in enumerate(lengths)]


@pytest.mark.parametrize("compute_dtype", [models.BF16, models.F16], ids=["bf16", "f16"])
@pytest.mark.parametrize("recipe", models.RECIPES, ids=lambda recipe: recipe.name)
def test_step_gives_the_cpu_builds_logits(recipe, compute_dtype, tmp_path):
    kv_dtype = "bfloat16" if compute_dtype == models.BF16 else "float16"
    gpu, cpu = both(make_model(recipe, tmp_path), compute_dtype, kv_dtype=kv_dtype)
    rows = rows_of([5, 1, 70, 33])
    worst = 0
    for step in range(4):
        if step == 1:  # decode, by a graph that is one sequence larger
            rows = rows[:3]
        if step == 2:  # decode and prefill together
            rows = rows + rows_of([1, 1, 1, 1, 40], seed=90)[4:]
        for engine in (gpu, cpu):
            engine.step(rows)
        for s in range(len(rows)):
            worst = max(worst, difference(gpu.logits(s), cpu.logits(s)))
        for s, row in enumerate(rows):
            row["cached"] = row.get("cached", 0) + len(row["tokens"])
            row["tokens"] = [int(cpu.buffers[0].sampled[s])]
    print(f"{recipe.name}: {worst:.4f}")
    assert worst < LIMITS[compute_dtype]


@pytest.mark.parametrize("kv_dtype", ["fp8_e4m3", "fp8_e5m2", "float16", "bfloat16"])
def test_step_reads_and_writes_every_kv_dtype(kv_dtype, tmp_path):
    file = make_model(models.RECIPES[0], tmp_path)
    scales = numpy.exp2(numpy.random.default_rng(7).uniform(-3, 1, (2, 2, 2))) if kv_dtype.startswith("fp8") else None
    gpu, cpu = both(file, models.F16, kv_dtype=kv_dtype, kv_scales=scales)
    rows = rows_of([40, 17])
    for engine in (gpu, cpu):
        engine.step(rows)
    later = [{**row, "cached": len(row["tokens"]), "tokens": [3 + s]} for s, row in enumerate(rows)]
    for engine in (gpu, cpu):
        engine.step(later)
    # A value beside a rounding edge may fall to either side: one step of FP8 is 2^-4 or 2^-3 of it.
    limit = {"fp8_e4m3": 0.1, "fp8_e5m2": 0.2}.get(kv_dtype, LIMITS[models.BF16])
    for s in range(2):
        assert difference(gpu.logits(s), cpu.logits(s)) < limit


def test_step_gives_the_same_bits_again(tmp_path):
    engine = Engine(Model(GPU, make_model(models.RECIPES[0], tmp_path)))
    rows = rows_of([33, 5, 70])
    later = [{**row, "cached": len(row["tokens"]), "tokens": [9]} for row in rows]
    results = []
    for _ in range(3):
        engine.step(rows)
        prefill = [engine.logits(s) for s in range(3)]
        engine.step(later)
        results.append(prefill + [engine.logits(s) for s in range(3)])
    for again in results[1:]:
        for one, other in zip(results[0], again):
            numpy.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("recipe", [models.RECIPES[0], models.RECIPES[6]], ids=lambda recipe: recipe.name)
def test_step_does_not_depend_on_chunks_and_batch_mates(recipe, tmp_path):
    engine = Engine(Model(GPU, make_model(recipe, tmp_path), compute_dtype=models.F16), kv_dtype="float16")
    prompt = random_tokens(90, 5)
    pages = [40, 3, 99, 12, 60, 61, 7, 8]
    engine.step([{"tokens": prompt, "pages": pages}])
    whole = engine.logits(0)
    for chunk in (1, 7, 31, 64):
        for begin in range(0, len(prompt), chunk):
            mates = rows_of([1, 3, 20][:begin % 4], seed=begin)
            engine.step([{"tokens": prompt[begin:begin + chunk], "cached": begin, "pages": pages}]
                        + [{**mate, "pages": range(100 + 8 * s, 108 + 8 * s)} for s, mate in enumerate(mates)])
        assert difference(engine.logits(0), whole) < LIMITS[models.F16], chunk


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "fp8_e4m3", "int4"])
@pytest.mark.parametrize("recipe", [models.RECIPES[0], models.RECIPES[6]], ids=lambda recipe: recipe.name)
def test_graphs_give_the_bits_of_kernels_enqueued_one_by_one(recipe, kv_dtype, tmp_path):
    """No graph holds scores, so that a step with one is enqueued kernel by kernel. Where the graph is for more sequences
    than there are, attention cuts the keys elsewhere."""
    engine = Engine(Model(GPU, make_model(recipe, tmp_path)), kv_dtype=kv_dtype, max_num_seqs=21, max_scores=1)
    for num_seqs in (1, 2, 3, 4, 7, 8, 13, 16, 21):
        prompts = [{"tokens": random_tokens(3 + 5 * s, s), "pages": range(7 * s, 7 * s + 7)}
                   for s in range(min(num_seqs, 16))]
        prompts += [{"tokens": [s], "pages": [112 + s - 16]} for s in range(16, num_seqs)]
        for begin in range(0, num_seqs, 3):
            engine.step(prompts[begin:begin + 3])
        rows = [{**row, "cached": len(row["tokens"]), "tokens": [9 + s]} for s, row in enumerate(prompts)]
        buffer = engine.step(rows)
        by_graph = [buffer.sampled[:num_seqs].copy()] + [engine.logits(s) for s in range(num_seqs)]
        rows[0]["scores"] = [(0, 5, 0)]
        buffer = engine.step(rows)
        assert buffer.score_logprob[0] < 0
        one_by_one = [buffer.sampled[:num_seqs]] + [engine.logits(s) for s in range(num_seqs)]
        for mine, other in zip(by_graph, one_by_one):
            if num_seqs in (1, 2, 4, 8, 16, 21):
                numpy.testing.assert_array_equal(mine, other, err_msg=f"{num_seqs} sequences")
            elif mine.dtype == numpy.float32:
                assert difference(mine, other) < (0.6 if kv_dtype == "int4" else 0.15), num_seqs


def test_submit_feeds_sampled_tokens_on_the_device(tmp_path):
    model = Model(GPU, make_model(models.RECIPES[0], tmp_path))
    rows = rows_of([9, 30, 4], temperature=0.8)
    one_by_one = Engine(model)
    texts = [[] for _ in rows]
    now = [dict(row) for row in rows]
    for step in range(12):
        buffer = one_by_one.step([{**row, "seed": s + 1, "sample_index": step} for s, row in enumerate(now)])
        for s, text in enumerate(texts):
            text.append(int(buffer.sampled[s]))
            now[s] = {**now[s], "cached": now[s].get("cached", 0) + len(now[s]["tokens"]), "tokens": [text[-1]]}
    ahead = Engine(model)
    found = [[] for _ in rows]
    now = [dict(row) for row in rows]
    for step in range(13):
        if step < 12:
            buffer = ahead.buffers[step % 2]
            buffer.fill([{**row, "seed": s + 1, "sample_index": step} for s, row in enumerate(now)])
            ahead.submit(buffer)
            now = [{**row, "cached": row.get("cached", 0) + len(row["tokens"]), "tokens": [-(s + 1)]}
                   for s, row in enumerate(now)]
        if step > 0:
            buffer = ahead.buffers[(step - 1) % 2]
            ahead.finish(buffer)
            for s, text in enumerate(found):
                text.append(int(buffer.sampled[s]))
    assert found == texts


def test_step_samples_only_where_asked(tmp_path):
    gpu, cpu = both(make_model(models.RECIPES[0], tmp_path), models.F16, kv_dtype="float16")
    rows = rows_of([20, 6, 11], num_logprobs=3)
    rows[1]["sample"] = 0
    for engine in (gpu, cpu):
        engine.buffers[0].sampled[:] = 77
        engine.step(rows)
    mine, theirs = gpu.buffers[0], cpu.buffers[0]
    assert mine.sampled[:3].tolist() == theirs.sampled[:3].tolist() and mine.sampled[2] == 77
    numpy.testing.assert_allclose(mine.sampled_logprob[:2], theirs.sampled_logprob[:2], atol=0.02)
    assert mine.top_token[:8].reshape(2, 4)[:, 0].tolist() == theirs.top_token[:8].reshape(2, 4)[:, 0].tolist()
    assert mine.top_token[:8].reshape(2, 4)[:, 3].tolist() == [-1] * 2
    assert difference(gpu.logits(1), cpu.logits(1)) < LIMITS[models.F16]
    with pytest.raises(models.OctavoError, match="the last step has 2 rows of logits, found row 2"):
        gpu.logits(2)
    gpu.step([{**row, "sample": 0} for row in rows])
    with pytest.raises(models.OctavoError, match="token 0 is -1, but the step before has 0 rows"):
        gpu.step([{"tokens": [-1], "cached": 20, "pages": [0, 1]}])


def is_same_draw(a, b, logits, temperature):
    """Tokens are drawn in the order of ids: rounding takes a draw no farther than over what weighs nearly nothing."""
    if a == b or temperature == 0:
        return a == b
    weights = numpy.exp((logits - logits.max()) / temperature)
    return weights[min(a, b) + 1:max(a, b)].sum() < 1e-3 * weights.sum()


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_step_samples_after_several_tokens(temperature, tmp_path):
    """Rows in the middle of a sequence are those of steps that end there."""
    gpu, cpu = both(make_model(models.RECIPES[0], tmp_path), models.F16, kv_dtype="float16")
    one_by_one = Engine(gpu.model, kv_dtype="float16")
    prompts = rows_of([20, 6, 33], temperature=temperature, num_logprobs=2)
    drafts = [random_tokens(length, 70 + length) for length in (4, 1, 7)]
    for engine in (gpu, cpu, one_by_one):
        engine.step(prompts)
    rows = [{**row, "cached": len(row["tokens"]), "tokens": draft, "sample": sample, "sample_index": 5, "seed": s}
            for s, (row, draft, sample) in enumerate(zip(prompts, drafts, (4, 0, 5)))]
    for _ in range(2):  # again, over what the first run has written
        mine, theirs = gpu.step(rows), cpu.step(rows)
        r = 0
        for row in rows:
            for i in range(len(row["tokens"])):
                index = i - len(row["tokens"]) + row["sample"]
                alone = one_by_one.step([{**row, "cached": row["cached"] + i, "tokens": row["tokens"][i:i + 1],
                                          "sample": 1, "sample_index": 5 + max(index, 0)}])
                if index < 0:
                    continue
                assert difference(gpu.logits(r), one_by_one.logits(0)) < LIMITS[models.F16]
                for other in (theirs.sampled[r], alone.sampled[0]):
                    assert is_same_draw(int(mine.sampled[r]), int(other), gpu.logits(r), temperature)
                if mine.sampled[r] == theirs.sampled[r]:
                    numpy.testing.assert_allclose(mine.sampled_logprob[r], theirs.sampled_logprob[r], atol=0.02)
                assert mine.top_token[4 * r:4 * r + 4].tolist() == theirs.top_token[4 * r:4 * r + 4].tolist()
                r += 1
        assert r == 9
    gpu.step([{**row, "cached": row["cached"] + len(row["tokens"]), "tokens": [token], "sample": 1}
              for row, token in zip(rows, (-4, 3, -9))])
    cpu.step([{**row, "cached": row["cached"] + len(row["tokens"]), "tokens": [token], "sample": 1}
              for row, token in zip(rows, (-4, 3, -9))])
    for r, drawn in enumerate((3, None, 8)):  # where both drew the same token
        if drawn is None or mine.sampled[drawn] == theirs.sampled[drawn]:
            assert difference(gpu.logits(r), cpu.logits(r)) < LIMITS[models.F16]


def log_softmax(logits):
    x = logits.astype(numpy.float64)
    return x - (x.max() + numpy.log(numpy.exp(x - x.max()).sum()))


@pytest.mark.parametrize("recipe", [models.RECIPES[0], models.RECIPES[5]], ids=lambda recipe: recipe.name)
def test_step_scores_by_the_logits_of_its_rows(recipe, tmp_path):
    engine = Engine(Model(GPU, make_model(recipe, tmp_path)), max_samples=32, max_scores=32)
    rows = rows_of([5, 1, 20], num_logprobs=2)
    for row in rows:  # as many scores as rows, after the same tokens: the same products
        row["sample"] = len(row["tokens"])
        row["scores"] = [(place, random_tokens(1, 40 + place)[0], place % 5) for place in range(len(row["tokens"]))]
    buffer = engine.step(rows)
    assert buffer.header[4] == 26
    for x in range(26):
        logits = engine.logits(x)
        token, num_top = buffer.score_token[x], buffer.score_num_logprobs[x]
        logprobs = log_softmax(logits)
        assert buffer.score_rank[x] == 1 + int((logits > logits[token]).sum())
        assert abs(buffer.score_logprob[x] - logprobs[token]) < 1e-4
        top = buffer.score_top_token[4 * x:4 * x + 4]
        order = numpy.lexsort((numpy.arange(len(logits)), -logits))[:num_top]
        assert top.tolist() == order.tolist() + [-1] * (4 - num_top)
        numpy.testing.assert_allclose(buffer.score_top_logprob[4 * x:4 * x + num_top], logprobs[order], atol=1e-4)


def test_step_scores_many_and_samples_as_without(tmp_path):
    settings = {"kv_dtype": "float16", "max_samples": 8, "max_scores": 200}
    gpu, cpu = both(make_model(models.RECIPES[0], tmp_path), models.F16, **settings)
    rows = rows_of([70, 1, 33], num_logprobs=3)
    plain = gpu.step(rows)
    expected = (plain.sampled[:3].copy(), plain.sampled_logprob[:3].copy(), plain.top_token[:12].copy())
    for row in rows:
        row["scores"] = [(place, token, 4) for place, token in enumerate(row["tokens"])]
    for engine in (gpu, cpu):
        engine.step(rows)
    mine, theirs = gpu.buffers[0], cpu.buffers[0]
    numpy.testing.assert_array_equal(mine.sampled[:3], expected[0])
    numpy.testing.assert_array_equal(mine.sampled_logprob[:3], expected[1])
    numpy.testing.assert_array_equal(mine.top_token[:12], expected[2])
    numpy.testing.assert_allclose(mine.score_logprob[:104], theirs.score_logprob[:104], atol=0.03)
    numpy.testing.assert_allclose(mine.score_top_logprob[:4 * 104], theirs.score_top_logprob[:4 * 104], atol=0.03)
    assert (mine.score_top_token[:4 * 104:4] == theirs.score_top_token[:4 * 104:4]).mean() > 0.9
    # A decode step with scores, and one that samples nothing.
    later = [{**row, "cached": len(row["tokens"]), "tokens": [7], "scores": [(0, 5, 1)]} for row in rows]
    for engine in (gpu, cpu):
        engine.step(later)
    numpy.testing.assert_allclose(mine.score_logprob[:3], theirs.score_logprob[:3], atol=0.03)
    assert mine.sampled[:3].tolist() == theirs.sampled[:3].tolist()
    for engine in (gpu, cpu):
        engine.step([{**row, "sample": 0} for row in later])
    numpy.testing.assert_allclose(mine.score_logprob[:3], theirs.score_logprob[:3], atol=0.03)
    assert gpu.step(rows_of([3])).sampled[0] >= 0  # by a graph's kernels or not, no score is left over


def test_device_keeps_masks_that_are_not_new(tmp_path):
    gpu, _ = both(make_model(models.RECIPES[0], tmp_path), models.F16, kv_dtype="float16", max_token_masks=3,
                  token_mask_words=17)
    buffer = gpu.buffers[0]

    def sampled(allowed, new=None):
        rows = rows_of([4, 5, 6])
        for row, tokens in zip(rows, allowed):
            row["allowed"] = tokens
        buffer.fill(rows)
        if new is not None:
            buffer.new_masks(*new)
        gpu.run(buffer)
        return buffer.sampled[:3].tolist()

    assert sampled([[1], [2], [3]]) == [1, 2, 3]
    # What the buffer holds in the places of the others is not read.
    assert sampled([[7], [8], [9]], new=(1, 1)) == [1, 8, 3]
    assert sampled([[7], [7], [7]], new=(0, 0)) == [1, 8, 3]
    assert sampled([[7], [7], [9]], new=(2, 1)) == [1, 8, 9]
    assert sampled([[4], [5], [6]]) == [4, 5, 6]


def test_step_samples_only_tokens_of_the_mask(tmp_path):
    settings = {"max_token_masks": 3, "token_mask_words": 17}
    gpu, cpu = both(make_model(models.RECIPES[0], tmp_path), models.F16, kv_dtype="float16", **settings)
    allowed = [[1, 31, 32, 519], random_tokens(100, 9)]
    for temperature in (0, 1):
        rows = rows_of([20, 6, 11], num_logprobs=3, temperature=temperature, seed=4)
        rows[0]["allowed"], rows[2]["allowed"] = allowed
        for length in (None, 1):  # prefill, then a decode by its graph
            for engine in (gpu, cpu):
                engine.step(rows)
            mine, theirs = gpu.buffers[0], cpu.buffers[0]
            assert mine.sampled[:3].tolist() == theirs.sampled[:3].tolist() or temperature == 1
            assert mine.sampled[0] in allowed[0] and mine.sampled[2] in allowed[1]
            assert set(mine.top_token[8:11].tolist()) <= set(allowed[1])
            assert mine.sampled[1] == gpu.logits(1).argmax() or temperature == 1
            rows = [{**row, "cached": row.get("cached", 0) + len(row["tokens"]), "tokens": [3]} for row in rows]
        del rows[0]["allowed"], rows[2]["allowed"]
        assert gpu.step(rows).sampled[0] == cpu.step(rows).sampled[0] or temperature == 1
    rows[0]["allowed"] = []
    assert gpu.step(rows).sampled[0] == -1
    with pytest.raises(models.OctavoError, match="token_mask_words must be 17 to 17, found 16"):
        Engine(gpu.model, max_token_masks=1, token_mask_words=16)


def test_step_gives_minus_1_where_logits_hold_no_number(tmp_path):
    file = make_model(Recipe("broken", untied=True), tmp_path, broken_token=7)
    engine = Engine(Model(GPU, file))
    rows = [{"tokens": tokens, "pages": [s], "num_logprobs": 2} for s, tokens in enumerate([[1, 2, 3], [6, 7], [4, 5]])]
    alone = Engine(Model(GPU, file))
    expected = []
    for row in (rows[0], rows[2]):
        expected.append(int(alone.step([row]).sampled[0]))
    for temperature in (0, 1):
        buffer = engine.step([{**row, "temperature": temperature} for row in rows])
        assert buffer.sampled[1] == -1 and buffer.top_token[4:8].tolist() == [-1] * 4
        assert min(buffer.sampled[0], buffer.sampled[2]) >= 0
        if temperature == 0:
            assert [int(buffer.sampled[0]), int(buffer.sampled[2])] == expected
    # A row without a token feeds token 0; its pages serve the next sequence.
    engine.step([{"tokens": [-2], "cached": 2, "pages": [1]}])
    assert engine.step([{**rows[0], "pages": [1]}]).sampled[0] == expected[0]


def test_calculate_kv_scales_sets_the_cpu_builds_scales(tmp_path):
    for recipe in (models.RECIPES[0], models.RECIPES[4]):
        gpu, cpu = both(make_model(recipe, tmp_path), models.F16, kv_dtype="fp8_e4m3", calculate_kv_scales=1)
        assert (gpu.kv_scales() == 1).all()
        rows = rows_of([30, 1])
        for engine in (gpu, cpu):
            engine.step(rows)
        scales = gpu.kv_scales()
        numpy.testing.assert_allclose(scales, cpu.kv_scales(), rtol=5e-3)
        for engine in (gpu, cpu):
            engine.step([{**row, "cached": len(row["tokens"]), "tokens": [500]} for row in rows])
        numpy.testing.assert_array_equal(gpu.kv_scales(), scales)
        assert difference(gpu.logits(0), cpu.logits(0)) < 0.1


def test_freeze_kv_scales_takes_all_steps_and_graphs_read_what_it_set(tmp_path):
    # A sliding window and two RoPE tables: layers that share nothing.
    file = make_model(models.RECIPES[6], tmp_path)
    gpu, cpu = both(file, models.F16, kv_dtype="fp8_e4m3", calculate_kv_scales=1)
    with pytest.raises(models.OctavoError, match="before a step has stored anything"):
        gpu.freeze_kv_scales()
    steps = [rows_of([3]), rows_of([40, 7]), [{"tokens": [77], "pages": [60, 61]}]]
    for engine in (gpu, cpu):
        engine.step(steps[0])
        first = engine.kv_scales()
        for rows in steps[1:]:
            engine.step(rows)
        numpy.testing.assert_array_equal(engine.kv_scales(), first)
        engine.freeze_kv_scales()
        assert (engine.kv_scales() >= first).all() and (engine.kv_scales() > first).any()
    numpy.testing.assert_allclose(gpu.kv_scales(), cpu.kv_scales(), rtol=5e-3)
    with pytest.raises(models.OctavoError, match="no KV scales are being calculated"):
        gpu.freeze_kv_scales()
    # The graphs were captured while the scales were 1: a decode by them is that of an engine given the scales.
    given = Engine(gpu.model, kv_dtype="fp8_e4m3", kv_scales=gpu.kv_scales())
    prompts = rows_of([30, 5])
    decodes = [{**row, "cached": len(row["tokens"]), "tokens": [500]} for row in prompts]
    for engine in (gpu, given):
        engine.step(prompts)
        engine.step(decodes)
    numpy.testing.assert_array_equal(gpu.logits(0), given.logits(0))
    numpy.testing.assert_array_equal(gpu.kv_scales(), given.kv_scales())


@pytest.mark.parametrize("kv_dtype", [name for name in models.KV if name != "float32"])
def test_kv_stats_are_the_cpu_builds(tmp_path, kv_dtype):
    file = make_model(models.RECIPES[4], tmp_path)
    scales = {"kv_scales": numpy.full((2, 2, 2), 1 / 256)} if kv_dtype == "fp8_e4m3" else {}
    gpu, cpu = both(file, models.F16, kv_dtype=kv_dtype, kv_stats=1, **scales)
    assert gpu.kv_stats()[1] == 0 and (gpu.kv_stats()[0] == 0).all()  # nothing of the warm-up
    for engine in (gpu, cpu):
        for i in range(4):
            rows = [{"tokens": [(7 * t + i) % 519 for t in range(120)], "pages": list(range(8 * i, 8 * i + 8))}]
            engine.step(rows)
            engine.step([{"tokens": [3], "cached": 120, "pages": rows[0]["pages"]}])  # a graph
    (of_gpu, tokens), (of_cpu, _) = gpu.kv_stats(), cpu.kv_stats()
    assert tokens == 4 * 121
    numpy.testing.assert_allclose(of_gpu[0, ..., 0], of_cpu[0, ..., 0], rtol=5e-3)
    numpy.testing.assert_allclose(of_gpu[0, ..., 1], of_cpu[0, ..., 1], rtol=0.1, atol=5)
    assert (of_gpu[..., 1] > 0).all() == (kv_dtype == "fp8_e4m3")
    numpy.testing.assert_allclose(of_gpu[..., 2], of_cpu[..., 2], rtol=0.02)
    errors = [numpy.sqrt(one[..., 3] / one[..., 2]) for one in (of_gpu, of_cpu)]
    numpy.testing.assert_allclose(*errors, rtol=0.12)
    plain = Engine(gpu.model, kv_dtype=kv_dtype, **scales)
    plain.step([{"tokens": [(7 * t) % 519 for t in range(120)], "pages": list(range(8))}])
    plain.step([{"tokens": [3], "cached": 120, "pages": list(range(8))}])
    gpu.step([{"tokens": [3], "cached": 120, "pages": list(range(8))}])
    numpy.testing.assert_array_equal(plain.logits(0), gpu.logits(0))


@pytest.mark.parametrize("recipe", [models.RECIPES[index] for index in (3, 4, 6)], ids=lambda recipe: recipe.name)
def test_kv_histograms_are_the_cpu_builds(tmp_path, recipe):
    gpu, cpu = both(make_model(recipe, tmp_path), models.F16, kv_dtype="float16", kv_stats=2)
    assert all((one == 0).all() for one in gpu.kv_histograms())  # nothing of the warm-up
    rows = rows_of([100, 7])
    for engine in (gpu, cpu):
        engine.step(rows)
        engine.step([{**row, "cached": len(row["tokens"]), "tokens": [500]} for row in rows])
    (absmax, counts, k_sum), expected = gpu.kv_histograms(), cpu.kv_histograms()
    assert (counts.sum(-1) == 109 * gpu.model.config["head_dim"]).all()
    numpy.testing.assert_allclose(absmax, expected[0], rtol=5e-3)
    # Values near a bin's end may fall into the next one.
    numpy.testing.assert_allclose(counts.cumsum(-1), expected[1].cumsum(-1), atol=0.02 * counts.sum(-1).max())
    numpy.testing.assert_allclose(k_sum, expected[2], atol=109 * 5e-3)


@pytest.mark.parametrize("kv_dtype", ["int8", "k8v4", "int4"])
def test_k_mean_is_taken_off_as_the_cpu_build_does(tmp_path, kv_dtype):
    file = make_model(models.RECIPES[3], tmp_path)  # K has a bias
    k_mean = numpy.random.default_rng(1).normal(size=(2, 2, 64)) * 2
    gpu, cpu = both(file, models.F16, kv_dtype=kv_dtype, k_mean=k_mean)
    plain = Engine(gpu.model, kv_dtype=kv_dtype)
    exact = Engine(cpu.model, kv_dtype="float32")
    prompts = rows_of([70, 3])
    for engine in (gpu, cpu, plain, exact):
        engine.step(prompts)
        engine.step([{**row, "cached": len(row["tokens"]), "tokens": [500]} for row in prompts])  # a graph
    # Codes of 4 bits turn over where the builds' activations differ least.
    near, far = (0.1, 0.1) if kv_dtype == "int8" else (0.4, 1.5)
    for s in range(2):
        assert difference(gpu.logits(s), cpu.logits(s)) < near
        assert difference(gpu.logits(s), exact.logits(s)) < far
        assert (gpu.logits(s) != plain.logits(s)).any()
    with pytest.raises(models.OctavoError, match="K's mean of layer 0 must be 0: the sinks of its attention would see it"):
        Engine(Model(GPU, make_model(models.RECIPES[7], tmp_path)), kv_dtype=kv_dtype, k_mean=numpy.ones((2, 1, 64)))


def test_step_fills_every_bucket(tmp_path):
    gpu, cpu = both(make_model(models.RECIPES[0], tmp_path), models.F16, kv_dtype="float16", max_num_seqs=21)
    for num_seqs in (1, 2, 3, 7, 9, 16, 17, 21):
        rows = [{"tokens": [10 * s + 1], "pages": [s]} for s in range(num_seqs)]
        for engine in (gpu, cpu):
            engine.step(rows)
        for s in range(num_seqs):
            assert difference(gpu.logits(s), cpu.logits(s)) < LIMITS[models.F16], (num_seqs, s)


def test_engine_refuses_what_no_kernel_takes(tmp_path):
    model = Model(GPU, make_model(models.RECIPES[0], tmp_path))
    with pytest.raises(models.OctavoError, match="kv_dtype"):
        Engine(model, kv_dtype="float32")
    with pytest.raises(models.OctavoError, match="a KV cache of 134000000 pages needs"):
        Engine(model, num_pages=134000000)
    with pytest.raises(models.OctavoError, match="K scale of layer 0, kv head 0 must be finite and above 0"):
        Engine(model, kv_dtype="fp8_e4m3", kv_scales=numpy.zeros((2, 2, 2)))
    engine = Engine(model)
    with pytest.raises(models.OctavoError, match="page 0 of sequence 0 must be 0 to 127, found 128"):
        engine.step([{"tokens": [1], "pages": [128]}])
    assert engine.step([{"tokens": [1], "pages": [127]}]).sampled[0] >= 0


_FAILURE = """
import ctypes, sys, model as models
from model import Engine, Model, make_model
library = models.open_library("cuda")
engine = Engine(Model(library, make_model(models.RECIPES[0], sys.argv[1])))
rows = [{"tokens": [1, 2], "pages": [0]}]
engine.step(rows)
nowhere = ctypes.c_void_p(4096)  # the device has no memory there
library.octavo_quantize(models.KV["fp8_e4m3"], nowhere, 64, ctypes.c_float(1), nowhere)
for call in (lambda: engine.step(rows), lambda: engine.step(rows), lambda: engine.logits(0)):
    try:
        call()
        print("no error")
    except models.OctavoError as error:
        print(error)
engine.close()
"""


def test_a_failed_device_is_an_error_of_every_call_and_not_the_end(tmp_path):
    result = subprocess.run([sys.executable, "-c", _FAILURE, str(tmp_path)], capture_output=True, text=True,
                            cwd=str(models.ROOT / "tests/gpu"))
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) == 3, result.stdout + result.stderr
    assert all(line.startswith("status 5: ") and "cuda" in line.lower() for line in lines), lines
    assert "the device failed before" in lines[1]
