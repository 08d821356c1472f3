/* From counters of filters to numbers with AVX-512: the definition of NUMBERS_512 and NUMBERS_256, with BYTES_BY_GFNI
 * or without. A register has the filters of one pixel, or of two that have 256. */
#include "bytes_of_lanes_avx512.h"
#include "checked.h"
#include "signs.h"

/* Planes [begin, end), eight at most, as bytes of lanes. */
BYTES_INLINE void load_bytes(const uint8_t *counters, size_t pixel_bytes, const size_t lane_bytes, size_t begin,
                             size_t end, __m512i bytes[8]) {
    __m512i x[8];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        __m512i plane = _mm512_setzero_si512();
        const uint8_t *from = counters + (begin + i) * lane_bytes;
        if (begin + i < end && lane_bytes == 64)
            plane = _mm512_load_si512((const void *)from);
        else if (begin + i < end)
            plane = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_load_si256((const __m256i *)(const void *)from)),
                                       _mm256_load_si256((const __m256i *)(const void *)(from + pixel_bytes)), 1);
        x[BYTE_OF_PLANE(i)] = plane;
    }
    bytes_of_lanes(x, bytes);
}

/* lane_bytes is a constant where this is called. Filters have fewer than 2^16 weights (counters_for), so that a highest
 * plane beyond 16 tells nothing. */
BYTES_INLINE void find_numbers(const channels_expansion *expansion, uint16_t *numbers, const size_t lane_bytes) {
    const size_t at_once = 64 / lane_bytes, planes = smaller(expansion->planes, 16), low_planes = smaller(planes, 8);
    const __m512i mask = _mm512_set1_epi16((short)low_bits(planes));
    for (size_t pixel = 0; pixel < expansion->pixels; pixel += at_once, numbers += 512) {
        const size_t last = smaller(pixel + at_once, expansion->pixels) - 1; /* alone, a pixel takes both places */
        const uint8_t *from = expansion->counters + pixel * expansion->pixel_bytes;
        const size_t step = (last - pixel) * expansion->pixel_bytes;
        __m512i low[8], high[8];
        load_bytes(from, step, lane_bytes, 0, low_planes, low);
        load_bytes(from, step, lane_bytes, low_planes, planes, high);
        __m512i add = _mm512_set1_epi16((short)expansion->add[pixel]);
        if (lane_bytes == 32)
            add = _mm512_inserti64x4(add, _mm256_set1_epi16((short)expansion->add[last]), 1);
#pragma GCC unroll 8
        for (size_t r = 0; r < 8; r++)
            store_numbers(low[r], high[r], add, mask, numbers + 64 * r);
    }
}

BYTES_TARGET void NUMBERS_512(const channels_expansion *expansion, uint16_t *numbers) {
    find_numbers(expansion, numbers, 64);
}

BYTES_TARGET void NUMBERS_256(const channels_expansion *expansion, uint16_t *numbers) {
    find_numbers(expansion, numbers, 32);
}
