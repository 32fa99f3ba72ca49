"""The device sampler against the CPU's, row by row: sampler_test.cu, compiled here, and octavo_sample of both builds.

OCTAVO_CPU_LIB names liboctavo-cpu (default: the local build), SAMPLER_LIB a sampler_test.cu that is compiled already.
`python tests/gpu/test_sampling.py` prints timings, a JSON object a line.
"""

import ctypes
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile

import numpy as np
import pytest
import torch

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = ["ops/device_sampler.cu", "ops/sampling_params.cpp", "arch/gpu.cu", "arch/error.cpp"]
INPUTS = ("header tokens query_len seq_len page_table sample temperature top_k top_p min_p repetition_penalty "
          "presence_penalty frequency_penalty seed sample_index num_logprobs edit_begin edit_token edit_count edit_flags "
          "edit_bias mask_index token_masks score_index score_token score_num_logprobs kv_index").split()
TABLES = INPUTS + ("sampled sampled_logprob top_token top_logprob score_logprob score_rank score_top_token "
                   "score_top_logprob").split()
FLOATS = set("temperature top_p min_p repetition_penalty presence_penalty frequency_penalty edit_bias sampled_logprob "
             "top_logprob score_logprob score_top_logprob".split())
MAX_LOGPROBS = 20


class StepLayout(ctypes.Structure):
    _fields_ = [("total_bytes", ctypes.c_double)] + [(name, ctypes.c_int32) for name in TABLES]


class Sampling(ctypes.Structure):
    _fields_ = ([(name, ctypes.c_float) for name in ("temperature", "top_p", "min_p", "repetition_penalty",
                                                     "presence_penalty", "frequency_penalty")]
                + [(name, ctypes.c_int32) for name in ("top_k", "sample_index")]
                + [(name, ctypes.c_uint32) for name in ("seed_low", "seed_high")]
                + [(name, ctypes.c_int32) for name in ("num_edits", "num_draws")])


def load_sampler():
    path = os.environ.get("SAMPLER_LIB")
    if path is None:
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        if not pathlib.Path(nvcc).exists():
            pytest.skip("nvcc is not installed", allow_module_level=True)
        path = pathlib.Path(tempfile.mkdtemp()) / "sampler_test.so"
        sources = [pathlib.Path(__file__).parent / "sampler_test.cu", *(ROOT / "cuda" / one for one in SOURCES)]
        subprocess.run([nvcc, "-std=c++20", "-O3", "-arch=native", "-shared", "-Xcompiler", "-fPIC", "-I", ROOT / "cuda",
                        "-I", ROOT / "cuda/include", *sources, "-o", path], check=True)
    library = ctypes.CDLL(str(path))
    library.sampler_open.restype = ctypes.c_void_p
    return library


sampler_library = load_sampler()
cpu_library = ctypes.CDLL(os.environ.get("OCTAVO_CPU_LIB", str(ROOT / "build/cpu/liboctavo-cpu.so")))


class Step:
    """The tables of num_rows rows, each of another sequence, in one device buffer, and their views on the host."""

    def __init__(self, num_rows, edits=0, max_logprobs=MAX_LOGPROBS, masks=0, mask_words=0, scores=0):
        self.num_rows, self.max_logprobs, self.mask_words = num_rows, max_logprobs, mask_words
        lengths = dict.fromkeys(TABLES, num_rows) | {
            "header": 16, "tokens": 0, "query_len": 0, "seq_len": 0, "page_table": 0, "seed": 2 * num_rows,
            "edit_begin": num_rows + 1, "top_token": num_rows * max_logprobs, "top_logprob": num_rows * max_logprobs,
            "token_masks": masks * mask_words} | dict.fromkeys(
                [name for name in TABLES if name.startswith("score_")], scores) | dict.fromkeys(
                ["score_top_token", "score_top_logprob"], scores * max_logprobs) | dict.fromkeys(
                ["edit_token", "edit_count", "edit_flags", "edit_bias"], edits)
        self.layout = StepLayout()
        end = 0
        offsets = {}
        for name in TABLES:
            offsets[name] = end
            setattr(self.layout, name, end)
            end += (4 * lengths[name] + 63) // 64 * 64
        self.host = np.zeros(end, np.uint8)
        for name, length in lengths.items():
            dtype = np.float32 if name in FLOATS else np.uint32 if name in ("seed", "token_masks") else np.int32
            setattr(self, name, self.host[offsets[name]:offsets[name] + 4 * length].view(dtype))
        self.rows = np.stack([np.arange(num_rows), np.zeros(num_rows)], 1).astype(np.int32)  # (sequence, index) of each
        for name in ("top_p", "repetition_penalty"):
            getattr(self, name)[:] = 1
        self.num_logprobs[:] = -1
        self.sampled[:] = -7
        self.top_token[:] = -7

    def run(self, sampler, logits, stride=None):
        device, rows = torch.from_numpy(self.host).cuda(), torch.from_numpy(self.rows).cuda()
        status = sampler_library.sampler_sample(
            ctypes.c_void_p(sampler.handle), ctypes.c_void_p(logits.data_ptr()),
            ctypes.c_int64(logits.stride(0) if stride is None else stride), ctypes.c_void_p(rows.data_ptr()),
            self.num_rows, ctypes.byref(self.layout), ctypes.c_void_p(device.data_ptr()), self.mask_words)
        assert status == 0
        self.host[:] = device.cpu().numpy()

    def score(self, sampler, logits, first, num_rows):
        device = torch.from_numpy(self.host).cuda()
        status = sampler_library.sampler_score(
            ctypes.c_void_p(sampler.handle), ctypes.c_void_p(logits.data_ptr()), ctypes.c_int64(logits.stride(0)), first,
            num_rows, ctypes.byref(self.layout), ctypes.c_void_p(device.data_ptr()))
        assert status == 0
        self.host[:] = device.cpu().numpy()

    def settings(self, row):
        s, index = self.rows[row]
        return {name: getattr(self, name)[s] for name in
                ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "top_k")
                } | {"sample_index": self.sample_index[s] + index, "seed_low": self.seed[2 * s],
                     "seed_high": self.seed[2 * s + 1]}

    def edits(self, row):
        s = self.rows[row, 0]
        part = slice(self.edit_begin[s], self.edit_begin[s + 1])
        return [np.ascontiguousarray(table[part]) for table in
                (self.edit_token, self.edit_count, self.edit_flags, self.edit_bias)]


class Sampler:
    def __init__(self, max_num_seqs, vocab_size, max_logprobs=MAX_LOGPROBS, clusters=True):
        self.handle = sampler_library.sampler_open(max_num_seqs, vocab_size, max_logprobs, int(clusters))
        assert self.handle

    def __enter__(self):
        return self

    def __exit__(self, *_):
        sampler_library.sampler_close(ctypes.c_void_p(self.handle))


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def cpu_sample(logits, settings, edits, num_draws=1):
    """The CPU build's octavo_sample: (tokens, log-probabilities), or None where nothing can be sampled."""
    sampling = Sampling(**{name: value.item() for name, value in settings.items()}, num_edits=len(edits[0]),
                        num_draws=num_draws)
    tokens, logprobs = np.zeros(num_draws, np.int32), np.zeros(num_draws, np.float32)
    status = cpu_library.octavo_sample(ctypes.byref(sampling), pointer(logits), len(logits), *map(pointer, edits),
                                       pointer(tokens), pointer(logprobs))
    return (tokens, logprobs) if status == 0 else None


def edited(logits, settings, edits):
    result = logits.astype(np.float64)
    for token, count, flags, bias in zip(*edits):
        x = result[token]
        if flags & 1:
            x = x / settings["repetition_penalty"] if x > 0 else x * settings["repetition_penalty"]
        x -= settings["frequency_penalty"] * count + (settings["presence_penalty"] if count > 0 else 0)
        result[token] = -np.inf if flags & 2 else x + bias
    return np.where(np.isnan(result), -np.inf, result)


def is_tie(logits, settings, edits, a, b):
    """Whether draws a and b of one row differ by rounding alone: what lies between them in the order of ids weighs
    nothing, or one ends the set that top-p or min-p keeps."""
    x = edited(logits, settings, edits)
    weights = np.exp((x - x.max()) / float(settings["temperature"]))
    low, high = sorted((a, b))
    order = np.lexsort((np.arange(len(x)), -x))
    if settings["top_k"] > 0:
        weights[order[settings["top_k"]:]] = 0
    cut_by_rounding = False
    if settings["top_p"] < 1:
        sums = np.cumsum(weights[order]) / weights.sum()
        end = np.searchsorted(sums, settings["top_p"])
        cut_by_rounding = min(abs(sums[i] - settings["top_p"]) for i in (max(end - 1, 0), min(end, len(x) - 1))) < 1e-6
        weights[order[end + 1:]] = 0
    if settings["min_p"] > 0:
        cut_by_rounding |= bool(np.any(np.abs(weights - settings["min_p"]) < 1e-6))
        weights[weights < settings["min_p"]] = 0
    return cut_by_rounding or weights[low + 1:high].sum() <= 1e-5 * weights.sum()


def random_rows(rng, num_rows, vocab):
    """Rows as models give them, flat ones, ties, extremes, infinities and NaN."""
    logits = rng.standard_normal((num_rows, vocab), np.float32)
    for row in range(num_rows):
        kind = row % 10
        if kind < 3:
            logits[row] = logits[row] * 3 + rng.integers(-20, 20)
            logits[row, rng.integers(0, vocab, 20)] += 15
        elif kind == 3:
            logits[row] *= 0.01
        elif kind == 4:
            logits[row] = np.round(logits[row])
        elif kind == 5:
            logits[row] = 1.5
        elif kind == 6:
            logits[row] *= 10.0 ** rng.integers(-30, 30)
        elif kind == 7:
            logits[row, rng.integers(0, vocab, vocab // 3)] = -np.inf
            logits[row, rng.integers(0, vocab, vocab // 3)] = np.nan
        elif kind == 8:
            logits[row, rng.random(vocab) < 0.999] = -np.inf
        elif rng.random() < 0.3:
            logits[row] = rng.choice([np.nan, -np.inf, np.inf, 3e38])
    return logits


def random_step(rng, num_rows, vocab, **sizes):
    counts = np.where(rng.random(num_rows) < 0.5, 0, rng.integers(0, min(300, vocab + 1), num_rows))
    step = Step(num_rows, int(counts.sum()), **sizes)
    step.edit_begin[1:] = np.cumsum(counts)
    for row in range(num_rows):
        part = slice(step.edit_begin[row], step.edit_begin[row + 1])
        step.edit_token[part] = rng.choice(vocab, counts[row], replace=False)
    step.edit_count[:] = rng.integers(0, 3, len(step.edit_count))
    step.edit_flags[:] = rng.integers(0, 4, len(step.edit_flags))
    step.edit_bias[:] = np.where(rng.random(len(step.edit_bias)) < 0.5, 0, rng.normal(0, 5, len(step.edit_bias)))
    step.rows[:, 0] = rng.permutation(num_rows)
    step.rows[:, 1] = rng.integers(0, 4, num_rows)
    step.temperature[:] = rng.choice([0, 0.1, 0.7, 1, 1, 2.5, 100], num_rows)
    step.top_k[:] = rng.choice([0, 0, 1, 5, 50, 1000, vocab - 1], num_rows)
    step.top_p[:] = rng.choice([1, 1, 0.9, 0.5, 0.999, 1e-6], num_rows)
    step.min_p[:] = rng.choice([0, 0, 0.05, 1], num_rows)
    step.repetition_penalty[:] = rng.choice([1, 1.3, 0.8], num_rows)
    step.presence_penalty[:] = rng.choice([0, 0.5, -2], num_rows)
    step.frequency_penalty[:] = rng.choice([0, 0.25], num_rows)
    step.seed[:] = rng.integers(0, 2**32, 2 * num_rows, np.uint32)
    step.sample_index[:] = rng.integers(0, 10000, num_rows)
    step.num_logprobs[:] = rng.choice([-1, 0, 1, 5, MAX_LOGPROBS], num_rows)
    return step


def most_likely(x, n):
    """The n greatest above -infinity, best first, the lower index first among equals."""
    n = min(n, len(x))
    candidates = np.flatnonzero((x >= np.partition(x, -n)[-n]) & (x > -np.inf))
    return candidates[np.lexsort((candidates, -x[candidates]))][:n]


def check_row(step, row, logits):
    """One row against the CPU; returns whether the token is another one by rounding."""
    top = step.top_token[row * step.max_logprobs:(row + 1) * step.max_logprobs]
    top_logprob = step.top_logprob[row * step.max_logprobs:(row + 1) * step.max_logprobs]
    token = step.sampled[row]
    settings, edits, wanted = step.settings(row), step.edits(row), step.num_logprobs[step.rows[row, 0]]
    expected = cpu_sample(logits, settings, edits)
    if expected is None:
        assert token == -1 and step.sampled_logprob[row] == 0
        assert np.all(top == -1) and np.all(top_logprob == 0)
        return False
    moved = token != expected[0][0]
    if moved:
        assert settings["temperature"] > 0 and is_tie(logits, settings, edits, token, expected[0][0]), \
            f"row {row}: {token}, not {expected[0][0]}: {settings}"
    with np.errstate(all="ignore"):
        x = edited(logits, settings, edits).astype(np.float32).astype(np.float64)  # may pass f32's range: then NaN follows
        log_sum = x.max() + np.log(np.exp(x - x.max()).sum())
        logprobs = x - log_sum
    if wanted < 0:
        assert step.sampled_logprob[row] == 0
    else:
        np.testing.assert_allclose(step.sampled_logprob[row], logprobs[token], rtol=1e-5, atol=1e-5)
    if wanted > 0:
        f32 = x.astype(np.float32)
        order = most_likely(f32, wanted)
        assert np.all(top[len(order):] == -1) and np.all(top_logprob[len(order):] == 0)
        # Edited logits that are equal but for rounding may stand in either order.
        np.testing.assert_allclose(f32[top[:len(order)]], f32[order], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(top_logprob[:len(order)], logprobs[top[:len(order)]], rtol=1e-5, atol=1e-5)
        untouched = np.setdiff1d(order, edits[0])
        if len(untouched) == len(order):
            assert np.array_equal(top[:len(order)], order)
    else:
        assert np.all(top == -1) and np.all(top_logprob == 0)
    return moved


@pytest.mark.parametrize("clusters", [True, False])
@pytest.mark.parametrize("vocab,num_rows", [(1, 20), (100, 200), (49152, 400), (128256, 300), (128257, 100),
                                            (262144, 150)])
def test_rows_equal_the_cpu(vocab, num_rows, clusters):
    rng = np.random.default_rng(vocab + clusters)
    num_rows = num_rows if clusters else num_rows // 4
    step = random_step(rng, num_rows, vocab)
    logits = random_rows(rng, num_rows, vocab)
    with Sampler(num_rows, vocab, clusters=clusters) as sampler:
        step.run(sampler, torch.from_numpy(logits).cuda())
    moved = sum(check_row(step, row, logits[row]) for row in range(num_rows))
    print(f"vocabulary {vocab}: {moved} of {num_rows} rows moved by rounding")
    assert moved <= max(2, num_rows // 50)


@pytest.mark.parametrize("vocab", [100, 128256, 128257])
def test_rows_obey_their_masks(vocab):
    rng = np.random.default_rng(vocab)
    num_rows, words = 60, (vocab + 31) // 32
    logits = random_rows(rng, num_rows, vocab)
    step = random_step(rng, num_rows, vocab, masks=5, mask_words=words)
    masks = rng.random((5, 32 * words)) < np.array([0, 0.01, 0.5, 0.99, 1])[:, None]
    step.header[3] = 5
    step.token_masks[:] = np.packbits(masks, axis=1, bitorder="little").view(np.uint32).ravel()
    step.mask_index[:] = rng.integers(-1, 5, num_rows)
    with Sampler(num_rows, vocab) as sampler:
        step.run(sampler, torch.from_numpy(logits).cuda())
        moved = 0
        for row, mask in enumerate(step.mask_index):
            allowed = np.where(masks[mask, :vocab], logits[row], -np.inf).astype(np.float32) if mask >= 0 else logits[row]
            moved += check_row(step, row, allowed)
        assert moved <= 2
        # Without masks in the step the column is not read.
        step.header[3] = 0
        step.run(sampler, torch.from_numpy(logits).cuda())
    assert sum(check_row(step, row, logits[row]) for row in range(num_rows)) <= 2


@pytest.mark.parametrize("clusters", [True, False])
@pytest.mark.parametrize("vocab", [1, 100, 49152, 128257, 262144])
def test_scores_equal_numpy(vocab, clusters):
    rng = np.random.default_rng(vocab)
    num_scores, first = 50, 17
    logits = random_rows(rng, num_scores, vocab)
    step = Step(1, scores=num_scores + first)
    step.score_token[first:] = rng.integers(0, vocab, num_scores)
    step.score_num_logprobs[first:] = rng.choice([0, 1, 5, MAX_LOGPROBS], num_scores)
    step.score_rank[:] = -7
    with Sampler(num_scores, vocab, clusters=clusters) as sampler:
        step.score(sampler, torch.from_numpy(logits).cuda(), first, num_scores)
    assert np.all(step.score_rank[:first] == -7)
    with np.errstate(all="ignore"):
        for row in range(num_scores):
            x = np.where(np.isnan(logits[row]), -np.inf, logits[row]).astype(np.float64)
            logprobs = x - (x.max() + np.log(np.exp(x - x.max()).sum()))
            token, wanted = step.score_token[first + row], step.score_num_logprobs[first + row]
            found = step.score_logprob[first + row]
            part = slice((first + row) * MAX_LOGPROBS, (first + row + 1) * MAX_LOGPROBS)
            top, top_logprob = step.score_top_token[part], step.score_top_logprob[part]
            assert step.score_rank[first + row] == 1 + np.sum(x > x[token])
            order = most_likely(x, wanted) if wanted > 0 else []
            assert np.array_equal(top[:len(order)], order) and np.all(top[len(order):] == -1), (row, top, order)
            if not np.isfinite(x.max()):
                assert not found > -np.inf  # nothing is a number, or one is infinite
                continue
            np.testing.assert_allclose(found, logprobs[token], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(top_logprob[:len(order)], logprobs[top[:len(order)]], rtol=1e-5, atol=1e-5)


def test_rows_do_not_depend_on_batch_mates():
    rng = np.random.default_rng(5)
    num_rows, vocab = 64, 50000
    step = random_step(rng, num_rows, vocab)
    logits = torch.from_numpy(random_rows(rng, num_rows, vocab)).cuda()
    with Sampler(num_rows, vocab) as sampler:
        step.run(sampler, logits)
        whole = step.host.copy()
        step.run(sampler, logits)
        assert np.array_equal(whole, step.host)
        for row in range(0, num_rows, 7):
            one = Step(1, len(step.edits(row)[0]))
            for name, value in step.settings(row).items():
                if not name.startswith("seed"):
                    getattr(one, name)[0] = value
            s = step.rows[row, 0]
            one.seed[:] = step.seed[2 * s:2 * s + 2]
            one.num_logprobs[0] = step.num_logprobs[s]
            one.edit_begin[1] = len(one.edit_token)
            for table, values in zip((one.edit_token, one.edit_count, one.edit_flags, one.edit_bias), step.edits(row)):
                table[:] = values
            one.run(sampler, logits[row:row + 1])
            part = slice(row * MAX_LOGPROBS, (row + 1) * MAX_LOGPROBS)
            assert one.sampled[0] == step.sampled[row]
            assert np.array_equal(one.sampled_logprob[:1], step.sampled_logprob[row:row + 1], equal_nan=True)
            assert np.array_equal(one.top_token, step.top_token[part])
            assert np.array_equal(one.top_logprob, step.top_logprob[part], equal_nan=True)


def test_rows_of_no_sequence_are_left_alone():
    logits = torch.randn(8, 1000, device="cuda")
    step = Step(8)
    step.rows[5:, 0] = -1
    with Sampler(8, 1000) as sampler:
        step.run(sampler, logits)
    assert np.array_equal(step.sampled[:5], logits[:5].argmax(1).cpu().numpy())
    assert np.all(step.sampled[5:] == -7)


def test_unaligned_rows_and_strides():
    """Rows that begin anywhere: the last columns of a wider tensor."""
    rng = np.random.default_rng(6)
    logits = torch.from_numpy(random_rows(rng, 20, 3001)).cuda()
    step = random_step(rng, 20, 3000)
    with Sampler(20, 3000) as sampler:
        step.run(sampler, logits[:, 1:])
    for row in range(20):
        check_row(step, row, np.ascontiguousarray(logits[row, 1:].cpu().numpy()))


@pytest.mark.parametrize("top_k,top_p", [(0, 1), (40, 1), (0, 0.8), (200, 0.9)])
def test_draws_follow_the_distribution(top_k, top_p):
    """Chi-square of 131,072 draws over the kept tokens."""
    rng = np.random.default_rng(7)
    vocab, num_rows = 1000, 1024
    row = (1.5 * rng.standard_normal(vocab)).astype(np.float32)
    logits = torch.from_numpy(row).cuda()
    order = np.argsort(-row, kind="stable")
    weights = np.exp(row.astype(np.float64) - row.max())
    if top_k:
        weights[order[top_k:]] = 0
    if top_p < 1:
        weights[order[np.searchsorted(np.cumsum(weights[order]) / weights.sum(), top_p) + 1:]] = 0
    step = Step(num_rows)
    step.temperature[:], step.top_k[:], step.top_p[:] = 1, top_k, top_p
    step.seed[:] = np.tile([17, 4], num_rows)
    counts = np.zeros(vocab)
    with Sampler(num_rows, vocab) as sampler:
        for round_ in range(128):
            step.sample_index[:] = np.arange(num_rows) + num_rows * round_
            step.run(sampler, logits, stride=0)
            counts += np.bincount(step.sampled, minlength=vocab)
    assert np.all(counts[weights == 0] == 0)
    expected = counts.sum() * weights[weights > 0] / weights.sum()
    rare = expected < 5
    observed = np.append(counts[weights > 0][~rare], counts[weights > 0][rare].sum())
    expected = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
    chi_square, freedom = ((observed - expected) ** 2 / expected).sum(), len(expected) - 2
    print(f"chi-square {chi_square:.1f}, {freedom} degrees of freedom")
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_octavo_sample_equals_the_cpu():
    try:
        import octavo
    except OSError as error:
        pytest.skip(str(error))  # the whole library is not built
    rng = np.random.default_rng(8)
    vocab = 32000
    for logits in random_rows(rng, 10, vocab):
        step = random_step(rng, 1, vocab)
        settings, edits = step.settings(0), step.edits(0)
        expected = cpu_sample(logits, settings, edits, 300)
        sampling = Sampling(**{name: value.item() for name, value in settings.items()}, num_edits=len(edits[0]),
                            num_draws=300)
        tensors = [torch.from_numpy(one).cuda() for one in (logits, *edits)]
        tokens, logprobs = torch.zeros(300, dtype=torch.int32).cuda(), torch.zeros(300).cuda()
        octavo._call(octavo.library.octavo_sample, ctypes.byref(sampling), octavo._pointer(tensors[0]), vocab,
                     *map(octavo._pointer, tensors[1:]), octavo._pointer(tokens), octavo._pointer(logprobs))
        tokens, logprobs = tokens.cpu().numpy(), logprobs.cpu().numpy()
        if expected is None:
            assert np.all(tokens == -1) and np.all(logprobs == 0)
            continue
        same = tokens == expected[0]
        np.testing.assert_allclose(logprobs[same], expected[1][same], rtol=1e-5, atol=1e-5)
        for a, b in zip(tokens[~same], expected[0][~same]):
            assert is_tie(logits, settings, edits, a, b)
        assert np.count_nonzero(~same) <= 6


BENCHES = {
    "greedy": {},
    "temperature": {"temperature": 1},
    "top_p": {"temperature": 1, "top_p": 0.9},
    "top_k": {"temperature": 1, "top_k": 50},
    "top_k_top_p": {"temperature": 0.7, "top_k": 50, "top_p": 0.9},
    "min_p": {"temperature": 1, "min_p": 0.05},
    "greedy_top_logprobs": {"num_logprobs": 5},
}


def bench(vocab=128256, batches=(1, 64, 256), shapes=("model", "flat"), clusters=(True, False)):
    card = torch.cuda.get_device_name()
    for batch in batches:
        for shape in shapes:
            logits = torch.randn(batch, vocab, device="cuda")
            if shape == "model":  # a few likely tokens over a wide body
                logits = logits * 3
                logits.scatter_add_(1, torch.randint(0, vocab, (batch, 20), device="cuda"), torch.full((batch, 20), 12.0).cuda())
            for name, settings in BENCHES.items():
                for use_clusters in clusters if shape == "model" else (True,):
                    step = Step(batch)
                    for field, value in settings.items():
                        getattr(step, field)[:] = value
                    device, rows = torch.from_numpy(step.host).cuda(), torch.from_numpy(step.rows).cuda()
                    times = (ctypes.c_float * 15)()
                    with Sampler(batch, vocab, clusters=use_clusters) as sampler:
                        status = sampler_library.sampler_time(
                            ctypes.c_void_p(sampler.handle), ctypes.c_void_p(logits.data_ptr()), ctypes.c_int64(vocab),
                            ctypes.c_void_p(rows.data_ptr()), batch, ctypes.byref(step.layout),
                            ctypes.c_void_p(device.data_ptr()), 50, 15, times)
                    assert status == 0
                    print(json.dumps({"bench": "sampler", "card": card, "kind": name, "logits": shape, "batch": batch,
                                      "vocab": vocab, "clusters": use_clusters,
                                      "us": round(statistics.median(times), 2)}), flush=True)


if __name__ == "__main__":
    bench()
