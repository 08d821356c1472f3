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

/* Rows and columns of 16 x 16 numbers change places: pairs, pairs of pairs, then quarters of the registers. */
TARGET __attribute__((always_inline)) static inline void transpose_16x16(__m512i r[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (size_t i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 16; i += 4) { /* r[i + c]: column 4 q + c of rows i to i + 3, in quarter q */
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (size_t c = 0; c < 4; c++) {
        const __m512i low01 = _mm512_shuffle_i32x4(r[c], r[c + 4], 0x44);
        const __m512i low23 = _mm512_shuffle_i32x4(r[c], r[c + 4], 0xee);
        const __m512i high01 = _mm512_shuffle_i32x4(r[c + 8], r[c + 12], 0x44);
        const __m512i high23 = _mm512_shuffle_i32x4(r[c + 8], r[c + 12], 0xee);
        t[c] = _mm512_shuffle_i32x4(low01, high01, 0x88);
        t[c + 4] = _mm512_shuffle_i32x4(low01, high01, 0xdd);
        t[c + 8] = _mm512_shuffle_i32x4(low23, high23, 0x88);
        t[c + 12] = _mm512_shuffle_i32x4(low23, high23, 0xdd);
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++)
        r[i] = t[i];
}

/* The counts of one pixel's 64 filters: planes add their bit to bytes, low and high ones, where they have one. */
TARGET __attribute__((always_inline)) static inline void expand_pixel(const channels_expansion *expansion, size_t pixel,
                                                                      int32_t *values) {
    const uint8_t *from = expansion->from + pixel * expansion->pixel_bytes;
    __m512i low = _mm512_setzero_si512(), high = low, bit = _mm512_set1_epi8(1);
    for (size_t k = 0; k < 8; k++, from += expansion->plane_bytes) {
        low = _mm512_mask_add_epi8(low, load_word(from, 8), low, bit);
        bit = _mm512_add_epi8(bit, bit);
    }
    bit = _mm512_set1_epi8(1);
    for (size_t k = 8; k < expansion->planes && k < 16; k++, from += expansion->plane_bytes) {
        high = _mm512_mask_add_epi8(high, load_word(from, 8), high, bit);
        bit = _mm512_add_epi8(bit, bit);
    }
    const uint64_t highest = expansion->planes > 16 ? load_word(from, 8) : 0;
    const __m512i mask = _mm512_set1_epi32((int)low_bits(expansion->planes));
    const __m512i add = _mm512_set1_epi32(expansion->add[pixel]), top = _mm512_set1_epi32(1 << 16);
    const __m512i inside = _mm512_set1_epi32(expansion->inside[pixel]);
#define QUARTER(q)                                                                                                     \
    do {                                                                                                               \
        const __m512i low_part = _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(low, q));                              \
        const __m512i high_part = _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(high, q));                            \
        __m512i value = _mm512_or_si512(low_part, _mm512_slli_epi32(high_part, 8));                                    \
        value = _mm512_mask_or_epi32(value, (__mmask16)(highest >> 16 * (q)), value, top);                             \
        value = _mm512_and_si512(_mm512_add_epi32(value, add), mask);                                                  \
        value = _mm512_sub_epi32(_mm512_slli_epi32(value, 1), inside);                                                 \
        _mm512_store_si512(values + 16 * (q), value);                                                                  \
    } while (0)
    QUARTER(0);
    QUARTER(1);
    QUARTER(2);
    QUARTER(3);
}

TARGET void channels_expand_avx512(const channels_expansion *expansion) {
    _Alignas(64) int32_t values[16][64];
    for (size_t first = 0; first < expansion->pixels; first += 16) {
        const size_t pixels = expansion->pixels - first < 16 ? expansion->pixels - first : 16;
        for (size_t i = 0; i < 16; i++) /* the last pixel stands in for those beyond */
            expand_pixel(expansion, first + (i < pixels ? i : pixels - 1), values[i]);
        for (size_t filter = 0; filter < 64; filter += 16) {
            __m512i rows[16];
#pragma GCC unroll 16
            for (size_t i = 0; i < 16; i++)
                rows[i] = _mm512_load_si512(&values[i][filter]);
            transpose_16x16(rows);
#pragma GCC unroll 16
            for (size_t i = 0; i < 16; i++)
                _mm512_storeu_si512(&expansion->dots[filter + i][first], rows[i]);
        }
    }
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
    64, channels_majority_avx512, channels_list_avx512, channels_join_avx512, count, add, channels_expand_avx512, split,
};
const channels_steps channels_avx512_vbmi2 = {
    64, channels_majority_avx512, channels_list_vbmi2, channels_join_avx512, count, add, channels_expand_avx512, split,
};
#endif
