/* Floats to packed signs: comparison with a threshold per channel or per feature. */
#include "checked.h"
#include "cpu.h"
#include "parallel.h"
#include "signs.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* How `rows` rows whose bits follow one another, as a stream, get bytes of their own: those of a 64-byte register. Byte
 * i takes its bits from the stream's byte bytes[i - i % 8] and the seven after it, from bit shifts[i] of these on;
 * those in inside[i] exist. bytes[i] itself is the byte of the stream that is the i % 8th of them. */
typedef struct row_spreading {
    _Alignas(64) uint8_t bytes[64], shifts[64], inside[64];
    size_t rows; /* 0: the rows cannot be told apart in this way */
} row_spreading;

/* How rows are compared: element j with threshold[j * threshold_step], in direction[j * direction_step]; a step is 0
 * (one value for all) or 1. */
typedef struct rule {
    const float *threshold;
    const int8_t *direction;
    size_t threshold_step, direction_step;
    bool nan_bit;
    const row_spreading *spreading;
} rule;

/* Packs rows that follow one another. x <= t exactly where -x >= -t, and to negate is to flip the sign bit: x86
 * versions compare in one direction only. */
typedef void rows_function(const float *x, size_t rows, size_t width, const rule *rule, uint8_t *bits);

static bool compare(float x, float threshold, int8_t direction, bool nan_bit) {
    if (x != x)
        return nan_bit;
    return direction > 0 ? x >= threshold : x <= threshold;
}

static void rows_portable(const float *x, size_t rows, size_t width, const rule *rule, uint8_t *bits) {
    for (; rows > 0; rows--, x += width)
        for (size_t begin = 0; begin < width; begin += 8) {
            unsigned byte = 0;
            for (size_t j = begin; j < width && j < begin + 8; j++)
                byte |= (unsigned)compare(x[j], rule->threshold[j * rule->threshold_step],
                                          rule->direction[j * rule->direction_step], rule->nan_bit)
                        << (j - begin);
            *bits++ = (uint8_t)byte;
        }
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

/* What some columns are compared with: with their sign bits flipped by `flip`, they are to be `bound` or more. */
typedef struct rule_avx2 {
    __m256 flip, bound;
} rule_avx2;

AVX2 __attribute__((always_inline)) static inline rule_avx2 columns_avx2(const rule *rule, size_t j, __m256i present) {
    __m256 threshold = _mm256_set1_ps(rule->threshold[0]);
    __m256i direction = _mm256_set1_epi32(rule->direction[0]);
    if (rule->threshold_step)
        threshold = _mm256_maskload_ps(rule->threshold + j, present);
    if (rule->direction_step) {
        const int count = __builtin_popcount((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(present)));
        direction = _mm256_cvtepi8_epi32(
            _mm_set1_epi64x((int64_t)load_word((const uint8_t *)rule->direction + j, (size_t)count)));
    }
    const __m256 flip = _mm256_castsi256_ps(_mm256_and_si256(direction, _mm256_set1_epi32(INT32_MIN)));
    return (rule_avx2){flip, _mm256_xor_ps(threshold, flip)};
}

/* "Not less than" is "greater or equal" but for NaN, where it holds. */
AVX2 __attribute__((always_inline)) static inline uint8_t compare_avx2(__m256 x, rule_avx2 with, bool nan_bit) {
    const __m256 value = _mm256_xor_ps(x, with.flip);
    return (uint8_t)_mm256_movemask_ps(nan_bit ? _mm256_cmp_ps(value, with.bound, _CMP_NLT_UQ)
                                               : _mm256_cmp_ps(value, with.bound, _CMP_GE_OQ));
}

AVX2 static void rows_avx2(const float *x, size_t rows, size_t width, const rule *rule, uint8_t *bits) {
    const bool same = !rule->threshold_step && !rule->direction_step, nan_bit = rule->nan_bit;
    const size_t whole = width - width % 8;
    const __m256i positions = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i present = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(width - whole)), positions);
    const __m256i all = _mm256_set1_epi32(-1);
    rule_avx2 with = columns_avx2(rule, whole, present);
    for (; rows > 0; rows--, x += width) {
        for (size_t j = 0; j < whole; j += 8) {
            if (!same)
                with = columns_avx2(rule, j, all);
            *bits++ = compare_avx2(_mm256_loadu_ps(x + j), with, nan_bit);
        }
        if (whole == width)
            continue;
        if (!same)
            with = columns_avx2(rule, whole, present);
        *bits++ =
            (uint8_t)(compare_avx2(_mm256_maskload_ps(x + whole, present), with, nan_bit) & low_bits(width - whole));
    }
}

typedef struct rule_avx512 {
    __m512 flip, bound;
} rule_avx512;

AVX512 __attribute__((always_inline)) static inline rule_avx512 columns_avx512(const rule *rule, size_t j,
                                                                               __mmask16 present) {
    __m512 threshold = _mm512_set1_ps(rule->threshold[0]);
    __m512i direction = _mm512_set1_epi32(rule->direction[0]);
    if (rule->threshold_step)
        threshold = _mm512_maskz_loadu_ps(present, rule->threshold + j);
    if (rule->direction_step)
        direction = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(present, rule->direction + j));
    const __m512 flip = _mm512_castsi512_ps(_mm512_and_si512(direction, _mm512_set1_epi32(INT32_MIN)));
    return (rule_avx512){flip, _mm512_xor_ps(threshold, flip)};
}

AVX512 __attribute__((always_inline)) static inline __mmask16 compare_avx512(__m512 x, rule_avx512 with, bool nan_bit) {
    const __m512 value = _mm512_xor_ps(x, with.flip);
    return nan_bit ? _mm512_cmp_ps_mask(value, with.bound, _CMP_NLT_UQ)
                   : _mm512_cmp_ps_mask(value, with.bound, _CMP_GE_OQ);
}

AVX512 static void rows_avx512(const float *x, size_t rows, size_t width, const rule *rule, uint8_t *bits) {
    const bool same = !rule->threshold_step && !rule->direction_step, nan_bit = rule->nan_bit;
    const size_t whole = width - width % 16, rest = width - whole;
    const __mmask16 present = (__mmask16)low_bits(rest);
    rule_avx512 with = columns_avx512(rule, whole, present);
    for (; rows > 0; rows--, x += width) {
        for (size_t j = 0; j < whole; j += 16, bits += 2) {
            if (!same)
                with = columns_avx512(rule, j, 0xffff);
            const __mmask16 signs = compare_avx512(_mm512_loadu_ps(x + j), with, nan_bit);
            memcpy(bits, &signs, 2);
        }
        if (!rest)
            continue;
        if (!same)
            with = columns_avx512(rule, whole, present);
        const __mmask16 signs = compare_avx512(_mm512_maskz_loadu_ps(present, x + whole), with, nan_bit) & present;
        *bits++ = (uint8_t)signs;
        if (rest > 8)
            *bits++ = (uint8_t)(signs >> 8);
    }
}

/* Values that are all compared alike as a stream of bits, to the end of a 64-bit word. */
AVX512 __attribute__((always_inline)) static inline void stream_avx512(const float *x, size_t count, const rule *rule,
                                                                       uint64_t *stream) {
    const rule_avx512 with = columns_avx512(rule, 0, 1);
    const bool nan_bit = rule->nan_bit;
    for (; count >= 64; count -= 64, x += 64) {
        uint64_t word = 0;
#pragma GCC unroll 4
        for (size_t i = 0; i < 64; i += 16)
            word |= (uint64_t)compare_avx512(_mm512_loadu_ps(x + i), with, nan_bit) << i;
        *stream++ = word;
    }
    uint64_t word = 0;
    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 present = (__mmask16)low_bits(smaller(count - i, 16));
        word |= (uint64_t)compare_avx512(_mm512_maskz_loadu_ps(present, x + i), with, nan_bit) << i;
    }
    *stream = word;
}

/* What rows of `width` bits, 8 bytes at most, need. */
static void find_spreading(size_t width, row_spreading *spreading) {
    const size_t row_bytes = sign_bytes(width);
    spreading->rows = 0;
    if (row_bytes > 8 || width % 8 == 0)
        return;
    const size_t rows = 8 / row_bytes * 8; /* whole words, and whole bytes of the stream */
    size_t row = 0, column = 0, from = 0;
    for (size_t i = 0; i < rows * row_bytes; i++) {
        if (i % 8 == 0)
            from = (row * width + column) / 8;
        const size_t shift = row * width + column - from * 8, count = smaller(width - column, 8);
        if (shift + count > 64)
            return;
        spreading->bytes[i] = (uint8_t)(from + i % 8);
        spreading->shifts[i] = (uint8_t)shift;
        spreading->inside[i] = (uint8_t)low_bits(count);
        column += 8;
        if (column >= width) {
            row++;
            column = 0;
        }
    }
    spreading->rows = rows;
}

enum { STREAM_WORDS = 128, FEW_ROWS = 64 }; /* for which it is not worth finding out how they are told apart */

/* The bits of many rows come first: a wide load soon after narrow stores waits. */
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi"))) static void
rows_avx512vbmi(const float *x, size_t rows, size_t width, const rule *rule, uint8_t *bits) {
    const row_spreading *spreading = rule->spreading;
    if (!spreading->rows) {
        rows_avx512(x, rows, width, rule, bits);
        return;
    }
    const __m512i bytes = _mm512_load_si512((const void *)spreading->bytes);
    const __m512i shifts = _mm512_load_si512((const void *)spreading->shifts);
    const __m512i inside = _mm512_load_si512((const void *)spreading->inside);
    const size_t at_once = spreading->rows, row_bytes = sign_bytes(width);
    const size_t most = STREAM_WORDS * 64 / width / at_once * at_once;
    uint64_t stream[STREAM_WORDS + 9]; /* 64 bytes may be read from anywhere in it */
    for (size_t some; rows > 0; rows -= some, x += some * width, bits += some * row_bytes) {
        some = smaller(rows, most);
        stream_avx512(x, some * width, rule, stream);
        for (size_t row = 0; row < some; row += at_once) {
            const uint8_t *from = (const uint8_t *)stream + row * width / 8;
            const __m512i words = _mm512_permutexvar_epi8(bytes, _mm512_loadu_si512((const void *)from));
            const __m512i spread = _mm512_and_si512(_mm512_multishift_epi64_epi8(shifts, words), inside);
            _mm512_mask_storeu_epi8(bits + row * row_bytes, low_bits(smaller(some - row, at_once) * row_bytes), spread);
        }
    }
}
#endif

static rows_function *rows_function_for(bnncc_isa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case BNNCC_ISA_AVX2:
        return rows_avx2;
    case BNNCC_ISA_AVX512BW:
        return rows_avx512;
    case BNNCC_ISA_AVX512VPOPCNTDQ:
        return cpu_has_avx512vbmi() ? rows_avx512vbmi : rows_avx512;
#endif
    default:
        return rows_portable;
    }
}

static bnncc_status check_params(const bnncc_binarize_params *params, bnncc_error *error) {
    if (check_size("channels", params->channels, 1, error) || check_size("rows", params->rows, 1, error) ||
        check_size("width", params->width, 1, error))
        return BNNCC_INVALID_ARGUMENT;
    if (!params->threshold || !params->direction)
        return fail(error, BNNCC_INVALID_ARGUMENT, "threshold or direction is NULL");
    const size_t values = (size_t)(params->per_feature ? params->width : params->channels);
    if (params->threshold_count != 1 && params->threshold_count != values)
        return fail(error, BNNCC_INVALID_ARGUMENT, "threshold has %zu values, not 1 or %zu", params->threshold_count,
                    values);
    if (params->direction_count != 1 && params->direction_count != values)
        return fail(error, BNNCC_INVALID_ARGUMENT, "direction has %zu values, not 1 or %zu", params->direction_count,
                    values);
    return check_comparison(params->threshold, params->threshold_count, params->direction, params->direction_count,
                            error);
}

typedef struct binarize_job {
    const bnncc_binarize_params *params;
    const float *x;
    uint8_t *bits;
    rows_function *compare;
    row_spreading spreading;
} binarize_job;

/* Rows [begin, end), those that are compared alike at once. */
static void binarize_rows(void *argument, size_t begin, size_t end) {
    const binarize_job *job = argument;
    const bnncc_binarize_params *params = job->params;
    const size_t width = (size_t)params->width, rows = (size_t)params->rows;
    const bool many_thresholds = params->threshold_count > 1, many_directions = params->direction_count > 1;
    const bool same = params->per_feature || (!many_thresholds && !many_directions);
    for (size_t row = begin, next; row < end; row = next) {
        const size_t channel = params->per_feature ? 0 : row / rows % (size_t)params->channels;
        next = same ? end : smaller((row / rows + 1) * rows, end);
        const rule rule = {
            .threshold = params->threshold + (many_thresholds ? channel : 0),
            .direction = params->direction + (many_directions ? channel : 0),
            .threshold_step = params->per_feature && many_thresholds,
            .direction_step = params->per_feature && many_directions,
            .nan_bit = params->nan_bit != 0,
            .spreading = &job->spreading,
        };
        /* Rows of whole bytes that follow one another are as good as one. */
        const bool one_row = !params->per_feature && width % 8 == 0;
        job->compare(job->x + row * width, one_row ? 1 : next - row, one_row ? (next - row) * width : width, &rule,
                     job->bits + row * sign_bytes(width));
    }
}

bnncc_status bnncc_binarize(const bnncc_binarize_params *params, const float *x, int64_t batch, uint8_t *bits,
                            bnncc_isa isa, const bnncc_parallel *parallel, bnncc_error *error) {
    bool overflow = false;
    if (!params)
        return fail(error, BNNCC_INVALID_ARGUMENT, "params is NULL");
    if (check_params(params, error) || check_size("batch", batch, 0, error))
        return BNNCC_INVALID_ARGUMENT;
    const bnncc_status status = bnncc_isa_resolve(isa, &isa, error);
    if (status)
        return status;
    const size_t rows =
        times(times((size_t)batch, (size_t)params->channels, &overflow), (size_t)params->rows, &overflow);
    times(times(rows, (size_t)params->width, &overflow), sizeof *x, &overflow);
    if (overflow)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the tensor's size overflows");
    if (batch == 0)
        return BNNCC_OK;
    if (!x || !bits)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s is NULL", x ? "bits" : "x");
    binarize_job job;
    job.params = params;
    job.x = x;
    job.bits = bits;
    job.compare = rows_function_for(isa);
    job.spreading.rows = 0;
#if defined(__x86_64__)
    if (job.compare == rows_avx512vbmi && !params->per_feature && rows >= FEW_ROWS)
        find_spreading((size_t)params->width, &job.spreading);
#endif
    parallel_ranges(parallel, rows, (size_t)params->width / 4 + 8, binarize_rows, &job);
    return BNNCC_OK;
}
