"""The append kernel with qk-norm and RoPE: append_test.cu, compiled here."""

import pathlib
import shutil
import subprocess

import pytest


def test_append_with_norm_and_rope(tmp_path):
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not pathlib.Path(nvcc).exists():
        pytest.skip("nvcc is not installed")
    here = pathlib.Path(__file__).parent
    cuda = pathlib.Path(__file__).parents[2] / "cuda"
    sources = [here / "append_test.cu", cuda / "kv/append.cu", cuda / "arch/gpu.cu", cuda / "arch/error.cpp"]
    program = tmp_path / "append_test"
    subprocess.run([nvcc, "-std=c++20", "-O1", "-arch=native", "-I", cuda, "-I", cuda / "include", *sources, "-o", program],
                   check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.stdout == "append: ok\n" and result.returncode == 0, result.stdout + result.stderr
