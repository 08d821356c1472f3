/* The channel kernel's steps for AVX2: blocks of 256 filters. */
#include "signs.h"
#include "steps.h"

#if defined(__x86_64__)
#include "planes/vector_avx2.h"

#include "count.h"

TARGET static void majority_of_map(const channels_pixels *map, uint64_t *reference) {
    channels_find_majority(map, reference);
}

/* Bits to 32-bit lanes: all lanes get a byte, of which each keeps its own bit. */
TARGET static void expand(const channels_expansion *expansion) {
    const __m256i own_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i mask = _mm256_set1_epi32((int)low_bits(expansion->planes));
    _Alignas(32) int32_t values[8][8];
    for (size_t pixel = 0; pixel < expansion->pixels; pixel++) {
        const uint8_t *word = expansion->from + pixel * expansion->pixel_bytes;
        const __m256i add = _mm256_set1_epi32(expansion->add[pixel]);
        const __m256i inside = _mm256_set1_epi32(expansion->inside[pixel]);
        for (size_t byte = 0; byte < 8; byte++) {
            __m256i value = _mm256_setzero_si256(), weight = _mm256_set1_epi32(1);
            for (size_t k = 0; k < expansion->planes; k++) {
                const __m256i bits = _mm256_set1_epi32(word[byte + k * expansion->plane_bytes]);
                const __m256i ones = _mm256_cmpeq_epi32(_mm256_and_si256(bits, own_bit), own_bit);
                value = _mm256_or_si256(value, _mm256_and_si256(ones, weight));
                weight = _mm256_add_epi32(weight, weight);
            }
            value = _mm256_and_si256(_mm256_add_epi32(value, add), mask);
            value = _mm256_sub_epi32(_mm256_slli_epi32(value, 1), inside);
            _mm256_store_si256((__m256i *)(void *)values[byte], value);
        }
        for (size_t filter = 0; filter < 64; filter++)
            expansion->dots[filter][pixel] = values[filter / 8][filter % 8];
    }
}

static void split(const uint8_t *vectors, size_t count, uint64_t (*words)[64]) {
    channels_split(vectors, 4, count, words);
}

const channels_steps channels_avx2 = {
    32, majority_of_map, channels_list_portable, channels_join_portable, count, add, expand, split,
};
#endif
