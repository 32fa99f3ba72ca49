/*
 * octavo_kv_stats.h: statistics of K and V for calibrating scales. Offered by the CPU build beside octavo.h, whose
 * conventions hold here; a library without these symbols cannot calibrate.
 */
#ifndef OCTAVO_KV_STATS_H
#define OCTAVO_KV_STATS_H

#include "octavo.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bins of a histogram of magnitudes: bin i holds those from 2^(i/8 - 24) * (1 + i%8 / 8) (i/8 rounded down) to where bin
 * i+1 begins; the first one all that is smaller, the last one all that is larger. */
#define OCTAVO_KV_STATS_BINS 512

/* From here on every step counts its K (after RoPE, as it is stored) and V, before quantisation, starting from nothing. */
OCTAVO_API int32_t octavo_engine_collect_kv_stats(octavo_engine *engine);

/* Copies what has been counted: absmax: float[num_layers][2][num_kv_heads], K then V; histogram: double[num_layers][2]
 * [num_kv_heads][OCTAVO_KV_STATS_BINS]. Values that are no number are in neither. Errors: OCTAVO_INVALID_ARGUMENT when
 * nothing is collected. */
OCTAVO_API int32_t octavo_engine_kv_stats(const octavo_engine *engine, float *absmax, double *histogram);

#ifdef __cplusplus
}
#endif
#endif /* OCTAVO_KV_STATS_H */
