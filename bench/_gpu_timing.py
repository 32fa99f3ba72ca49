"""Times of PyTorch's calls on a GPU, for the peers beside Octavo's kernels."""

import statistics

import torch


def time_us(run, calls, samples=5):
    """Microseconds of one call of run: the median of samples, each the mean of so many calls."""
    for _ in range(2):
        run()
    times = []
    for _ in range(samples):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)
