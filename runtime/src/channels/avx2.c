/* The channel kernel's steps for AVX2: blocks of 256 filters. */
#include "checked.h"
#include "signs.h"
#include "steps.h"

#if defined(__x86_64__)
#include "planes/vector_avx2.h"

#include "count.h"

TARGET static void majority_of_map(const channels_pixels *map, uint64_t *reference) {
    channels_find_majority(map, reference);
}

/* [pixel][filter]. All 16-bit lanes get a word's 16 bits, of which each keeps its own. */
TARGET static void numbers(const channels_expansion *expansion, uint16_t *numbers) {
    const __m256i own_bit = _mm256_setr_epi16(1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8,
                                              1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, (short)(1u << 15));
    const __m256i mask = _mm256_set1_epi16((short)low_bits(smaller(expansion->planes, 16)));
    for (size_t pixel = 0; pixel < expansion->pixels; pixel++) {
        const uint8_t *from = expansion->counters + pixel * expansion->pixel_bytes;
        const __m256i add = _mm256_set1_epi16((short)expansion->add[pixel]);
        for (size_t part = 0; part < 32; part += 2, numbers += 16) {
            __m256i value = _mm256_setzero_si256(), weight = _mm256_set1_epi16(1);
            for (size_t k = 0; k < expansion->planes; k++) {
                const __m256i bits = _mm256_set1_epi16((short)load_word(from + part + k * 32, 2));
                const __m256i ones = _mm256_cmpeq_epi16(_mm256_and_si256(bits, own_bit), own_bit);
                value = _mm256_or_si256(value, _mm256_and_si256(ones, weight));
                weight = _mm256_add_epi16(weight, weight);
            }
            value = _mm256_and_si256(_mm256_add_epi16(value, add), mask);
            _mm256_storeu_si256((__m256i *)(void *)numbers, value);
        }
    }
}

TARGET static void turn(const channels_expansion *expansion, const uint16_t *numbers, const channels_floats *to) {
    channels_turn(expansion, numbers, 256, to);
}

static void split(const uint8_t *vectors, size_t count, uint64_t (*words)[64]) {
    channels_split(vectors, 4, count, words);
}

const channels_steps channels_avx2 = {
    32, majority_of_map, channels_list_portable, channels_join_portable, count, add, numbers, turn, split,
};
#endif
