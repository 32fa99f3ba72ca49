#include "arch/cublaslt.h"

#include <dlfcn.h>

#include <cstdio>

namespace octavo {
namespace {

constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
constexpr size_t kOldest = 120000;  // 12.0: the first with E4M3

struct Loaded {
  CublasLt functions = {};
  bool usable = false;
  std::string note;
};

template <class Function>
bool find(void* library, const char* name, Function& function, std::string& missing) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr && missing.empty()) missing = name;
  return function != nullptr;
}

// The name of the first function the library lacks, or "".
std::string find_all(void* library, CublasLt& lt) {
  std::string missing;
#define OCTAVO_FIND(name) find(library, "cublasLt" #name, lt.name, missing)
  OCTAVO_FIND(Create);
  OCTAVO_FIND(Destroy);
  OCTAVO_FIND(MatmulDescCreate);
  OCTAVO_FIND(MatmulDescDestroy);
  OCTAVO_FIND(MatmulDescSetAttribute);
  OCTAVO_FIND(MatrixLayoutCreate);
  OCTAVO_FIND(MatrixLayoutDestroy);
  OCTAVO_FIND(MatmulPreferenceCreate);
  OCTAVO_FIND(MatmulPreferenceDestroy);
  OCTAVO_FIND(MatmulPreferenceSetAttribute);
  OCTAVO_FIND(MatmulAlgoGetHeuristic);
  OCTAVO_FIND(Matmul);
  OCTAVO_FIND(GetVersion);
#undef OCTAVO_FIND
  return missing;
}

Loaded load() {
  Loaded result;
  std::string tried;
  for (const char* name : kNames) {
    if (!tried.empty()) tried += "; ";
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* reason = dlerror();
      tried += reason != nullptr ? reason : name;
      continue;
    }
    const std::string missing = find_all(library, result.functions);
    if (!missing.empty()) {
      tried += std::string(name) + " has no " + missing;
    } else if (const size_t version = result.functions.GetVersion(); version < kOldest) {
      tried += std::string(name) + " is version " + std::to_string(version);
    } else {
      result.usable = true;
      result.note = std::string(name) + ", version " + std::to_string(version);
      return result;
    }
    dlclose(library);
  }
  result.note = "cuBLASLt 12 or newer was not found (" + tried +
                "): prompts run on slower kernels; install cuBLAS (python3 -m pip install nvidia-cublas, or NVIDIA's "
                "package libcublas) and put its folder into LD_LIBRARY_PATH";
  std::fprintf(stderr, "%s\n", result.note.c_str());  // once a process
  return result;
}

}  // namespace

const CublasLt* load_cublaslt(std::string* note) {
  static const Loaded loaded = load();
  *note = loaded.note;
  return loaded.usable ? &loaded.functions : nullptr;
}

}  // namespace octavo
