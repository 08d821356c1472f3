/* Dot products of +-1 vectors, a tile of filters by a tile of windows at a time.
 *
 * A +-1 vector of length K is K bits, 1 for +1. Two elements multiply to -1 exactly where their bits differ, so
 *     dot(a, b) = (K - differing) - differing = K - 2 popcount(a xor b),
 * with the bits beyond K equal (0) in both. */
#ifndef BNNCC_DOT_H
#define BNNCC_DOT_H

#include "bnncc.h"

#include <stdbool.h>

/* Filters and windows in a tile, both at most; also the row length of the tile of results. */
enum { DOT_TILE = 64 };

/* windows: [window_count][words] words, window_count <= DOT_TILE.
 * weights: as placed by dot_place_filter; the tile has filter_count <= DOT_TILE filters.
 * dots: [DOT_TILE][DOT_TILE]; dots[f][p] becomes the dot product of filter f and window p over `length` elements. Rows
 * beyond filter_count, up to a multiple of the kernel's lanes, may be written too. */
typedef void dot_function(const uint64_t *windows, size_t window_count, const uint64_t *weights, size_t filter_count,
                          size_t words, int32_t length, int32_t *dots);

/* A kernel holds the same word of `lanes` filters in the lanes of one register: each word of a window is loaded to all
 * lanes, and every lane counts for its own filter, so there is never a sum across a register. */
typedef struct dot_kernel {
    size_t lanes; /* divides DOT_TILE */
    dot_function *run;
} dot_kernel;

/* `isa`: one that bnncc_isa_resolve gave. */
const dot_kernel *dot_kernel_for(bnncc_isa isa);

/* Words of `filters` filters of `words` words each, interleaved and rounded up to whole registers. */
size_t dot_weight_count(const dot_kernel *kernel, size_t filters, size_t words, bool *overflow);

/* Puts a filter into interleaved weights [ceil(filters / lanes)][words][lanes]. */
void dot_place_filter(const dot_kernel *kernel, uint64_t *weights, size_t words, size_t filter, const uint64_t *row);

/* Where a tile's weights begin, its first filter being a multiple of DOT_TILE. */
const uint64_t *dot_tile_weights(const dot_kernel *kernel, const uint64_t *weights, size_t words, size_t filter);

extern const dot_kernel dot_portable;
#if defined(__x86_64__)
extern const dot_kernel dot_avx2, dot_avx512bw, dot_avx512vpopcntdq;
#endif

#endif /* BNNCC_DOT_H */
