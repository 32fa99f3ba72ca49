"""What a model's weights are on the device: weights_test.cu, compiled here."""

import pathlib
import shutil
import subprocess

import pytest

SOURCES = """arch/cpu.cpp arch/error.cpp arch/gpu.cu arch/thread_pool.cpp gemm/device_convert.cu gemm/format.cpp
model/device_loader.cu model/device_weights.cu model/mapped_file.cpp model/model_base.cpp model/model_config.cpp
model/roles.cpp""".split()


def test_weights_on_the_device(tmp_path):
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not pathlib.Path(nvcc).exists():
        pytest.skip("nvcc is not installed")
    here = pathlib.Path(__file__).parent
    cuda = pathlib.Path(__file__).parents[2] / "cuda"
    program = tmp_path / "weights_test"
    sources = [here / "weights_test.cu", *(cuda / source for source in SOURCES)]
    subprocess.run([nvcc, "-std=c++20", "-O1", "-arch=native", "-I", cuda, "-I", cuda / "include", *sources, "-o", program],
                   check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.stdout == "weights: ok\n" and result.returncode == 0, result.stdout + result.stderr
