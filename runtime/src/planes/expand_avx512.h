/* From vertical counters to floats with AVX-512: the definition of EXPAND_FUNCTION, with BYTES_BY_GFNI or without. */
#include "bytes_of_lanes_avx512.h"
#include "expand.h"
#include "signs.h"

/* A plane of 64 bytes, or one of each of two channels of 32. */
BYTES_INLINE __m512i load_plane(const uint8_t *const channels[2], size_t at, size_t lane_bytes) {
    if (lane_bytes == 64)
        return _mm512_load_si512((const void *)(channels[0] + at));
    const __m256i *halves[2] = {(const __m256i *)(const void *)(channels[0] + at),
                                (const __m256i *)(const void *)(channels[1] + at)};
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_load_si256(halves[0])), _mm256_load_si256(halves[1]), 1);
}

/* Planes [begin, end), eight at most, as bytes of lanes. */
BYTES_INLINE void load_bytes(const uint8_t *const channels[2], size_t lane_bytes, size_t begin, size_t end,
                             __m512i bytes[8]) {
    __m512i x[8];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++)
        x[BYTE_OF_PLANE(i)] =
            begin + i < end ? load_plane(channels, (begin + i) * lane_bytes, lane_bytes) : _mm512_setzero_si512();
    bytes_of_lanes(x, bytes);
}

/* The floats of one channel from its lanes' numbers. */
BYTES_INLINE void floats_of_numbers(const planes_expansion *block, size_t channel, const uint16_t *numbers,
                              const planes_piece *pieces, size_t piece_count) {
    const __m512 factor = _mm512_set1_ps(block->factor[channel]);
    const __m512 scale = _mm512_set1_ps(block->scale[channel]), shift = _mm512_set1_ps(block->shift[channel]);
    const size_t sums_at = channel * block->sums_step, y_at = channel * block->y_step;
    for (const planes_piece *piece = pieces; piece < pieces + piece_count; piece++) {
        const float *sums = piece->sums + sums_at;
        float *y = piece->y + y_at;
        const __m256i part = _mm256_loadu_si256((const __m256i *)(const void *)(numbers + piece->at));
        const __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(part));
        if (piece->count == 16) {
            const __m512 dot = _mm512_fmadd_ps(value, factor, _mm512_loadu_ps(sums));
            _mm512_storeu_ps(y, _mm512_add_ps(_mm512_mul_ps(dot, scale), shift));
        } else {
            const __mmask16 inside = (__mmask16)low_bits(piece->count);
            const __m512 dot = _mm512_fmadd_ps(value, factor, _mm512_maskz_loadu_ps(inside, sums));
            _mm512_mask_storeu_ps(y, inside, _mm512_add_ps(_mm512_mul_ps(dot, scale), shift));
        }
    }
}

BYTES_TARGET void EXPAND_FUNCTION(const planes_expansion *block, size_t begin, size_t end) {
    const size_t lane_bytes = block->lane_bytes, at_once = 64 / lane_bytes, parts = lane_bytes / 16;
    const size_t low_planes = smaller(block->planes, 8);
    planes_piece pieces[MOST_PIECES];
    const size_t piece_count = planes_cut_runs(block, 16, 4, pieces);
    const __m512i mask = _mm512_set1_epi16((short)low_bits(block->planes));
    for (size_t channel = begin; channel < end; channel += at_once) {
        const size_t last = smaller(channel + at_once, end) - 1; /* alone, a channel takes both places */
        const uint8_t *const from[2] = {block->counted + channel * block->counted_step,
                                        block->counted + last * block->counted_step};
        __m512i low[8], high[8];
        load_bytes(from, lane_bytes, 0, low_planes, low);
        load_bytes(from, lane_bytes, low_planes, block->planes, high);
        const __m512i add = _mm512_inserti64x4(_mm512_set1_epi16((short)block->add[channel]),
                                               _mm256_set1_epi16((short)block->add[last]), 1);
        _Alignas(64) uint16_t numbers[512 + 16]; /* a piece of 16 may begin in the middle of a block */
#pragma GCC unroll 8
        for (size_t r = 0; r < 8; r++)
            store_numbers(low[r], high[r], add, mask, numbers + 64 * r);
        for (size_t i = channel; i <= last; i++)
            floats_of_numbers(block, i, numbers + (i - channel) * parts * BLOCK_LANES, pieces, piece_count);
    }
}
