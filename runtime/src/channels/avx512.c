/* The channel kernel's steps for AVX-512: blocks of 512 filters. */
#include "signs.h"
#include "steps.h"

#if defined(__x86_64__)
#include "planes/transpose_avx512.h"
#include "planes/vector_avx512.h"

#include "count.h"

TARGET void channels_majority_avx512(const channels_pixels *map, uint64_t *reference) {
    channels_find_majority(map, reference);
}

/* One part of a list, of 64 channels: their offsets where there are bits; returns its end. */
typedef uint16_t *compress_function(const uint16_t *offsets, uint64_t bits, uint16_t *to);

TARGET __attribute__((always_inline)) static inline uint16_t *compress(const uint16_t *offsets, uint64_t bits,
                                                                       uint16_t *to) {
    for (size_t i = 0; i < 64; i += 16, bits >>= 16) {
        const __m512i part = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(offsets + i)));
        const __m512i found = _mm512_maskz_compress_epi32((__mmask16)bits, part);
        _mm256_storeu_si256((__m256i *)(void *)to, _mm512_cvtepi32_epi16(found));
        to += popcount(bits & 0xffff);
    }
    return to;
}

#define VBMI2 __attribute__((target("avx512f,avx512bw,avx512vbmi2,popcnt")))

/* The channels' numbers, a byte each, are put together first; then their offsets are looked up. */
VBMI2 __attribute__((always_inline)) static inline uint16_t *compress_vbmi2(const uint16_t *offsets, uint64_t bits,
                                                                            uint16_t *to) {
    static const _Alignas(64) uint8_t numbers[64] = {
        0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
        44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63,
    };
    const __m512i low = _mm512_loadu_si512((const void *)offsets),
                  high = _mm512_loadu_si512((const void *)(offsets + 32));
    const __m512i found = _mm512_maskz_compress_epi8(bits, _mm512_load_si512((const void *)numbers));
    const size_t count = (size_t)__builtin_popcountll(bits);
    const __m512i first = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(found));
    _mm512_storeu_si512((void *)to, _mm512_permutex2var_epi16(low, first, high));
    if (count > 32) {
        const __m512i others = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(found, 1));
        _mm512_storeu_si512((void *)(to + 32), _mm512_permutex2var_epi16(low, others, high));
    }
    return to + count;
}

__attribute__((always_inline)) static inline void list_pair(const uint64_t *first, const uint64_t *second,
                                                            const uint64_t *reference, const uint16_t *offsets,
                                                            size_t channels, channels_list *list,
                                                            compress_function *compress) {
    uint16_t *to = list->planes;
    for (size_t part = 0; part < LIST_PARTS; part++) {
        const uint16_t *begin = to;
        for (size_t i = 0; i < channels; i += 64) {
            const uint64_t a = first[i / 64] ^ reference[i / 64], b = second[i / 64] ^ reference[i / 64];
            const uint64_t bits = part == LIST_BOTH ? a & b : part == LIST_FIRST ? a & ~b : b & ~a;
            to = compress(offsets + i, bits, to);
        }
        list->sizes[part] = (uint16_t)(to - begin);
    }
}

VBMI2 void channels_list_vbmi2(const uint64_t *first, const uint64_t *second, const uint64_t *reference,
                               const uint16_t *offsets, size_t channels, channels_list *list) {
    list_pair(first, second, reference, offsets, channels, list, compress_vbmi2);
}

TARGET void channels_list_avx512(const uint64_t *first, const uint64_t *second, const uint64_t *reference,
                                 const uint16_t *offsets, size_t channels, channels_list *list) {
    list_pair(first, second, reference, offsets, channels, list, compress);
}

TARGET void channels_join_avx512(const channels_list *const *lists, size_t taps, size_t tap_step, uint16_t **ends) {
    uint16_t *both = ends[LIST_BOTH], *first = ends[LIST_FIRST], *second = ends[LIST_SECOND];
    for (size_t tap = 0; tap < taps; tap++) {
        const channels_list *list = lists[tap];
        const __m512i step = _mm512_set1_epi16((short)(tap * tap_step));
        const uint16_t *from = list->planes;
#define APPEND(part, to)                                                                                               \
    do {                                                                                                               \
        for (size_t i = 0; i < list->sizes[part]; i += 32)                                                             \
            _mm512_storeu_si512((void *)((to) + i),                                                                    \
                                _mm512_add_epi16(_mm512_loadu_si512((const void *)(from + i)), step));                 \
        from += list->sizes[part];                                                                                     \
        (to) += list->sizes[part];                                                                                     \
    } while (0)
        APPEND(LIST_BOTH, both);
        APPEND(LIST_FIRST, first);
        APPEND(LIST_SECOND, second);
    }
    ends[LIST_BOTH] = both;
    ends[LIST_FIRST] = first;
    ends[LIST_SECOND] = second;
}

TARGET static void split(const uint8_t *vectors, size_t count, uint64_t (*words)[64]) {
    for (size_t first = 0; first < count; first += 8, vectors += 8 * 64) {
        __m512i rows[8];
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++)
            rows[i] = _mm512_load_si512((const void *)(vectors + 64 * i));
        transpose_8x8_words(rows);
#pragma GCC unroll 8
        for (size_t w = 0; w < 8; w++)
            _mm512_storeu_si512((void *)(words[w] + first), rows[w]);
    }
}

const channels_steps channels_avx512 = {
    64,
    channels_majority_avx512,
    channels_list_avx512,
    channels_join_avx512,
    count,
    add,
    channels_numbers_512_avx512,
    channels_turn_512_avx512,
    split,
};
const channels_steps channels_avx512_bytes = {
    64,
    channels_majority_avx512,
    channels_list_vbmi2,
    channels_join_avx512,
    count,
    add,
    channels_numbers_512_gfni,
    channels_turn_512_avx512,
    split,
};
#endif
