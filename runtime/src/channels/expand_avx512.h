/* From counters of filters to numbers with AVX-512: the definition of NUMBERS_512 and NUMBERS_256, with BYTES_BY_GFNI
 * or without. A register has the filters of one pixel, or of two that have 256. */
#include "bytes_of_lanes_avx512.h"

/* lane_bytes is a constant where this is called. Filters have fewer than 2^16 weights (counters_for), so that a highest
 * plane beyond 16 tells nothing. */
BYTES_INLINE void find_numbers(const channels_expansion *expansion, uint16_t *numbers, const size_t lane_bytes) {
    const size_t at_once = 64 / lane_bytes, planes = smaller(expansion->planes, 16);
    for (size_t pixel = 0; pixel < expansion->pixels; pixel += at_once, numbers += 512) {
        const size_t last = smaller(pixel + at_once, expansion->pixels) - 1; /* alone, a pixel takes both places */
        const uint8_t *const counters[2] = {expansion->counters + pixel * expansion->pixel_bytes,
                                            expansion->counters + last * expansion->pixel_bytes};
        const uint32_t add[2] = {(uint32_t)expansion->add[pixel], (uint32_t)expansion->add[last]};
        numbers_of_lanes(counters, lane_bytes, planes, add, numbers);
    }
}

BYTES_TARGET void NUMBERS_512(const channels_expansion *expansion, uint16_t *numbers) {
    find_numbers(expansion, numbers, 64);
}

BYTES_TARGET void NUMBERS_256(const channels_expansion *expansion, uint16_t *numbers) {
    find_numbers(expansion, numbers, 32);
}
