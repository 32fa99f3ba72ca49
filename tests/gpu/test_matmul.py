"""Matrix products: octavo_matmul against f64, and matmul_test.cu (types, scales, gates, chains), compiled here."""

import pathlib
import shutil
import subprocess

import pytest
import torch

import octavo

DEVICE = "cuda"


def make(rows, cols, m, dtype, seed=0):
    random = torch.Generator(device=DEVICE).manual_seed(seed)
    w = torch.randn(rows, cols, generator=random, device=DEVICE)
    w = (w * 2).to(dtype) if dtype == torch.float8_e4m3fn else (w * 0.05).to(dtype)
    compute = torch.float16 if dtype == torch.float16 else torch.bfloat16
    x = torch.randn(m, cols, generator=random, device=DEVICE).to(compute).float()  # the kernel's rounding changes nothing
    return w, x


def largest_error(y, w, x):
    """As a share of the sum of the terms' sizes; f32 sums that truncate stay below 2e-5."""
    exact = x.double() @ w.float().double().T
    sizes = x.double().abs() @ w.float().double().abs().T
    return ((y.double() - exact).abs() / sizes).max().item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("rows,cols", [(8, 16), (257, 640), (576, 1536), (4096, 4096), (1001, 80)])
@pytest.mark.parametrize("m", [1, 3, 8, 17, 64, 129, 300])
def test_matmul_is_exact_within_f32(dtype, rows, cols, m):
    w, x = make(rows, cols, m, dtype)
    assert largest_error(octavo.matmul(w, x), w, x) < 2e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_matmul_does_not_depend_on_the_batch(dtype):
    w, x = make(1536, 2048, 64, dtype)
    whole = octavo.matmul(w, x)
    for m in (1, 2, 5, 8, 16, 31, 33):
        assert torch.equal(octavo.matmul(w, x[:m].contiguous()), whole[:m])


def test_matmul_widens_every_e4m3_value_exactly():
    """Weights are all finite E4M3 values, x picks one column: y is the value itself."""
    values = torch.arange(256, dtype=torch.uint8, device=DEVICE)
    values = values[(values & 0x7F) != 0x7F]
    w = values.repeat_interleave(16).reshape(-1, 16).contiguous().view(torch.float8_e4m3fn)
    x = torch.zeros(1, 16, device=DEVICE)
    x[0, 5] = 1
    y = octavo.matmul(w, x)
    assert torch.equal(y[0], w[:, 5].float())


def test_matmul_confines_nan_to_its_token():
    w, x = make(512, 512, 9, torch.bfloat16)
    clean = octavo.matmul(w, x)
    x[3, 100] = float("nan")
    y = octavo.matmul(w, x)
    assert y[3].isnan().all()
    others = [i for i in range(9) if i != 3]
    assert torch.equal(y[others], clean[others])


@pytest.mark.parametrize("dtype,cols,message", [(torch.float32, 64, "must have 8192 bytes"),
                                                (torch.bfloat16, 60, "multiple of 8"),
                                                (torch.float8_e4m3fn, 72, "multiple of 16")])
def test_matmul_refuses_what_it_does_not_take(dtype, cols, message):
    w = torch.zeros(64, cols, device=DEVICE, dtype=dtype)
    with pytest.raises(octavo.OctavoError, match=message):
        octavo.matmul(w, torch.zeros(1, cols, device=DEVICE))


def test_products_of_a_model(tmp_path):
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not pathlib.Path(nvcc).exists():
        pytest.skip("nvcc is not installed")
    here = pathlib.Path(__file__).parent
    cuda = pathlib.Path(__file__).parents[2] / "cuda"
    major, minor = torch.cuda.get_device_capability()
    target = "90a" if (major, minor) == (9, 0) else f"{major}{minor}"
    products = [file for file in (cuda / "gemm").glob("*.cu") if file.stem != "device_convert"]  # which loads files
    sources = [here / "matmul_test.cu", *products, cuda / "arch/gpu.cu", cuda / "arch/tensor_map.cu",
               cuda / "arch/cublaslt.cu", cuda / "arch/error.cpp"]
    program = tmp_path / "matmul_test"
    subprocess.run([nvcc, "-std=c++20", "-O3", "--threads", "0", f"-gencode=arch=compute_{target},code=sm_{target}", "-I", cuda,
                    "-I", cuda / "include", *sources, "-o", program, "-ldl"], check=True)
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.stdout.endswith("matmul: ok\n") and result.returncode == 0, result.stdout + result.stderr
