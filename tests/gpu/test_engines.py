"""Engines of one process that step at the same time, from threads of their own."""

import threading

import numpy

import model as models
from model import Engine, Model, Recipe, make_model

GPU = models.open_library("cuda")
# Wide enough that a product's blocks fill the card.
WIDE = {"hidden_size": 1024, "intermediate_size": 4096, "num_q_heads": 16, "num_kv_heads": 4, "vocab_size": 4096}
SETTINGS = {"max_num_batched_tokens": 512, "num_pages": 512}
NUM_STEPS = 150


def run(engine, seed, results):
    """Prefill, then decodes of up to 8 sequences of which two are always under way; results: the tokens sampled."""
    random = numpy.random.default_rng(seed)
    lengths = random.integers(1, 60, 8)
    rows = [{"tokens": random.integers(0, 4096, length).tolist(), "pages": range(64 * s, 64 * s + 64)}
            for s, length in enumerate(lengths)]
    for step in range(NUM_STEPS + 1):
        if step < NUM_STEPS:
            buffer = engine.buffers[step % 2]
            buffer.fill(rows)
            engine.submit(buffer)
            # What was sampled is fed on the device, but for some tokens, which come with others as prompts do.
            rows = [{**row, "cached": row.get("cached", 0) + len(row["tokens"]), "tokens": [-(s + 1)]}
                    for s, row in enumerate(rows)]
            if step % 9 == 8:
                rows[step % 8]["tokens"] = random.integers(0, 4096, 5).tolist()
        if step > 0:
            buffer = engine.buffers[(step - 1) % 2]
            engine.finish(buffer)
            results.append(buffer.sampled[:8].copy())


def start(*threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "the engines wait for each other"


def test_two_engines_step_at_once_as_each_does_alone(tmp_path):
    (tmp_path / "b").mkdir()
    files = [make_model(Recipe("wide", WIDE), tmp_path), make_model(Recipe("wide", WIDE), tmp_path / "b", seed=2)]
    engines = [Engine(Model(GPU, file), **SETTINGS) for file in files]
    alone = [[], []]
    for seed, (engine, results) in enumerate(zip(engines, alone)):
        run(engine, seed, results)
    together = [[], []]
    start(*(threading.Thread(target=run, args=(engine, seed, results), daemon=True)
            for seed, (engine, results) in enumerate(zip(engines, together))))
    numpy.testing.assert_array_equal(together, alone)


def test_engines_open_and_close_beside_one_that_steps(tmp_path):
    file = make_model(Recipe("wide", WIDE), tmp_path)
    model = Model(GPU, file)
    engine = Engine(model, **SETTINGS)
    alone, beside = [], []
    run(engine, 3, alone)
    opened = []

    def open_some():
        for seed in range(4):
            other = Engine(model, kv_dtype="fp8_e4m3", **SETTINGS)
            opened.append(int(other.step([{"tokens": [5, 6, 7], "pages": [0]}]).sampled[0]))
            other.close()

    start(threading.Thread(target=run, args=(engine, 3, beside), daemon=True),
          threading.Thread(target=open_some, daemon=True))
    numpy.testing.assert_array_equal(beside, alone)
    assert len(opened) == 4 and len(set(opened)) == 1
