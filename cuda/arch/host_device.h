// For functions that host and device code of GPU builds share; the CPU build sees plain functions.
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define OCTAVO_HOST_DEVICE __host__ __device__
#else
#define OCTAVO_HOST_DEVICE
#endif
