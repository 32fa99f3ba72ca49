"""The products of a model (types, scales, gates, chains under overlap): matmul_test.cu, compiled here."""

import pathlib
import shutil
import subprocess

import pytest
import torch


def test_products_of_a_model(tmp_path):
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not pathlib.Path(nvcc).exists():
        pytest.skip("nvcc is not installed")
    here = pathlib.Path(__file__).parent
    cuda = pathlib.Path(__file__).parents[2] / "cuda"
    major, minor = torch.cuda.get_device_capability()
    target = "90a" if (major, minor) == (9, 0) else f"{major}{minor}"
    parts = [cuda / f"{name}.cu" for name in ("gemm/device_matmul", "gemm/library_matmul", "gemm/rows", "arch/gpu",
                                              "arch/tensor_map", "arch/cublaslt")]
    sources = [here / "matmul_test.cu", *parts, *(cuda / "gemm").glob("stream_*.cu"), cuda / "arch/error.cpp"]
    program = tmp_path / "matmul_test"
    subprocess.run([nvcc, "-std=c++20", "-O3", "--threads", "0", f"-gencode=arch=compute_{target},code=sm_{target}", "-I", cuda,
                    "-I", cuda / "include", *sources, "-o", program, "-ldl"], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.stdout.endswith("matmul: ok\n") and result.returncode == 0, result.stdout + result.stderr
