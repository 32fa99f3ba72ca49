"""Pages saved to host memory and restored, beside steps that do not wait for them."""

import time

import numpy
import pytest

import model as models
from model import Engine, Model, OctavoError, make_model

GPU = models.open_library("cuda")
PAGES = [5, 0, 3]


def random_tokens(count, seed):
    return [int(token) for token in numpy.random.default_rng(seed).integers(0, 520, count)]


PROMPT = random_tokens(40, 1)
OTHER = random_tokens(48, 2)


def last_logits(engine, pages):
    engine.step([{"tokens": PROMPT[-1:], "cached": len(PROMPT) - 1, "pages": pages}])
    return engine.logits(0)


@pytest.mark.parametrize("kv_dtype", [name for name in models.KV if name != "float32"])
def test_restore_brings_back_what_was_saved(kv_dtype, tmp_path):
    engine = Engine(Model(GPU, make_model(models.RECIPES[0], tmp_path)), kv_dtype=kv_dtype, num_host_pages=7)
    engine.step([{"tokens": PROMPT, "pages": PAGES}])
    expected = last_logits(engine, PAGES)
    engine.save_pages(PAGES, [6, 2, 4])
    engine.step([{"tokens": OTHER, "pages": [0, 3, 5]}])
    assert (last_logits(engine, PAGES) != expected).any()
    engine.restore_pages([1, 3, 7], [6, 2, 4])
    numpy.testing.assert_array_equal(last_logits(engine, [1, 3, 7]), expected)
    engine.save_pages([1, 3], [0, 1])
    numpy.testing.assert_array_equal(engine.host_page(0), engine.host_page(6))
    numpy.testing.assert_array_equal(engine.host_page(1), engine.host_page(2))
    assert (engine.host_page(0) != engine.host_page(1)).any() and engine.host_page(0).any()


def checksum(page):
    """octavo_engine_page_checksum's: each word of 8 bytes, mixed with its place, added up."""
    words = page.view(numpy.uint64)
    with numpy.errstate(over="ignore"):
        z = words + numpy.arange(1, len(words) + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return int((z ^ (z >> numpy.uint64(31))).sum(dtype=numpy.uint64))


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "fp8_e4m3", "int4"])
def test_page_checksum_is_of_the_pages_bytes(kv_dtype, tmp_path):
    engine = Engine(Model(GPU, make_model(models.RECIPES[0], tmp_path)), kv_dtype=kv_dtype, num_host_pages=2)
    empty = engine.page_checksum(7)
    engine.step([{"tokens": PROMPT, "pages": PAGES}])
    full, partial = engine.page_checksum(5), engine.page_checksum(3)
    assert len({empty, full, partial}) == 3
    engine.step([{"tokens": [7], "cached": len(PROMPT), "pages": PAGES}])
    assert engine.page_checksum(5) == full and engine.page_checksum(3) != partial
    engine.save_pages([5], [0])
    engine.restore_pages([7], [0])
    assert engine.page_checksum(7) == full == checksum(engine.host_page(0))
    with pytest.raises(OctavoError, match="page must be 0 to 127, found 128"):
        engine.page_checksum(128)


def test_steps_wait_for_the_transfers_of_their_pages(tmp_path):
    """Saves and restores of all pages in flight: every step reads what it would have read without them."""
    engine = Engine(Model(GPU, make_model(models.RECIPES[0], tmp_path)), num_pages=4096, num_host_pages=4096)
    rng = numpy.random.default_rng(4)
    engine.step([{"tokens": PROMPT, "pages": PAGES}])
    expected = last_logits(engine, PAGES)
    engine.save_pages(PAGES, [1, 2, 3])
    for round_ in range(40):
        pages = rng.permutation(4096)
        others, mine = pages[:4000], [int(page) for page in pages[4000:4003]]
        engine.save_pages(others, numpy.arange(4000) + 96)  # keeps the stream busy
        engine.restore_pages(mine, [1, 2, 3])
        numpy.testing.assert_array_equal(last_logits(engine, mine), expected, err_msg=f"round {round_}")
        # A save of these pages is enqueued; the step that overwrites them waits for it.
        engine.save_pages(mine, [4, 5, 6])
        engine.step([{"tokens": OTHER, "pages": mine}])
        engine.restore_pages(mine, [4, 5, 6])
        numpy.testing.assert_array_equal(last_logits(engine, mine), expected, err_msg=f"round {round_}")
    engine.host_page(0)
    stats = engine.transfer_stats()
    assert stats.num_submitted == stats.num_finished == 1 + 40 * 4
    page_bytes = engine.host_page(0).size
    assert stats.saved_bytes == (3 + 40 * 4003) * page_bytes and stats.restored_bytes == 40 * 6 * page_bytes
    assert stats.saved_seconds > 0 and stats.restored_seconds > 0


def test_transfers_do_not_wait_for_steps(tmp_path):
    """A call returns while its copies run, and transfer_stats never waits."""
    engine = Engine(Model(GPU, make_model(models.RECIPES[0], tmp_path)), num_pages=65536, num_host_pages=65536)
    pages = numpy.arange(65536)
    start = time.perf_counter()
    engine.save_pages(pages, pages)
    submitted = time.perf_counter() - start
    pending = engine.transfer_stats().num_finished
    engine.host_page(0)
    assert engine.transfer_stats().num_finished == 1
    size = engine.transfer_stats().saved_bytes
    print(f"submit {submitted:.4f} s, pending {pending == 0}, {size / engine.transfer_stats().saved_seconds / 1e9:.1f} GB/s")


def test_pages_that_there_are_not_are_refused(tmp_path):
    engine = Engine(Model(GPU, make_model(models.RECIPES[0], tmp_path)), num_pages=4, num_host_pages=2)
    for pages, host_pages in (([4], [0]), ([-1], [0]), ([0], [2]), ([0, 1], [0, -1])):
        for transfer in (engine.save_pages, engine.restore_pages):
            with pytest.raises(OctavoError, match="of a transfer must be 0 to"):
                transfer(pages, host_pages)
    assert engine.transfer_stats().num_submitted == 0
