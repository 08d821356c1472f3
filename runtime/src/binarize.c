/* Floats to packed signs: comparison with a threshold per channel or per feature. */
#include "checked.h"
#include "parallel.h"
#include "signs.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* How one row is compared: element j with threshold[j * threshold_step], in direction[j * direction_step]; a step is 0
 * (one value for the row) or 1. */
typedef struct rule {
    const float *threshold;
    const int8_t *direction;
    size_t threshold_step, direction_step;
    bool nan_bit;
} rule;

/* x <= t exactly where -x >= -t, and to negate is to flip the sign bit: x86 versions compare in one direction only. */
typedef void row_function(const float *x, size_t width, const rule *rule, uint8_t *bits);

static bool compare(float x, float threshold, int8_t direction, bool nan_bit) {
    if (x != x)
        return nan_bit;
    return direction > 0 ? x >= threshold : x <= threshold;
}

static void row_portable(const float *x, size_t width, const rule *rule, uint8_t *bits) {
    for (size_t begin = 0; begin < width; begin += 8) {
        unsigned byte = 0;
        for (size_t j = begin; j < width && j < begin + 8; j++)
            byte |= (unsigned)compare(x[j], rule->threshold[j * rule->threshold_step],
                                      rule->direction[j * rule->direction_step], rule->nan_bit)
                    << (j - begin);
        bits[begin / 8] = (uint8_t)byte;
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void row_avx2(const float *x, size_t width, const rule *rule, uint8_t *bits) {
    const __m256i sign_bit = _mm256_set1_epi32(INT32_MIN), positions = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 threshold = _mm256_set1_ps(rule->threshold[0]);
    __m256i direction = _mm256_set1_epi32(rule->direction[0]);
    for (size_t j = 0; j < width; j += 8) {
        const size_t count = smaller(width - j, 8);
        const __m256i present = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), positions);
        if (rule->threshold_step)
            threshold = _mm256_maskload_ps(rule->threshold + j, present);
        if (rule->direction_step) {
            int8_t directions[8] = {0};
            memcpy(directions, rule->direction + j, count);
            direction = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)directions));
        }
        const __m256 flip = _mm256_castsi256_ps(_mm256_and_si256(direction, sign_bit));
        const __m256 value = _mm256_xor_ps(_mm256_maskload_ps(x + j, present), flip);
        const __m256 bound = _mm256_xor_ps(threshold, flip);
        /* "not less than" is "greater or equal" but for NaN, where it holds. */
        const __m256 signs =
            rule->nan_bit ? _mm256_cmp_ps(value, bound, _CMP_NLT_UQ) : _mm256_cmp_ps(value, bound, _CMP_GE_OQ);
        bits[j / 8] = (uint8_t)((uint64_t)_mm256_movemask_ps(signs) & low_bits(count));
    }
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) static void row_avx512(const float *x, size_t width,
                                                                                     const rule *rule, uint8_t *bits) {
    const __m512i sign_bit = _mm512_set1_epi32(INT32_MIN);
    __m512 threshold = _mm512_set1_ps(rule->threshold[0]);
    __m512i direction = _mm512_set1_epi32(rule->direction[0]);
    for (size_t j = 0; j < width; j += 16) {
        const size_t count = smaller(width - j, 16);
        const __mmask16 present = (__mmask16)((1u << count) - 1);
        if (rule->threshold_step)
            threshold = _mm512_maskz_loadu_ps(present, rule->threshold + j);
        if (rule->direction_step)
            direction = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(present, rule->direction + j));
        const __m512 flip = _mm512_castsi512_ps(_mm512_and_si512(direction, sign_bit));
        const __m512 value = _mm512_xor_ps(_mm512_maskz_loadu_ps(present, x + j), flip);
        const __m512 bound = _mm512_xor_ps(threshold, flip);
        /* "not less than" is "greater or equal" but for NaN, where it holds. */
        const __mmask16 signs = rule->nan_bit ? _mm512_mask_cmp_ps_mask(present, value, bound, _CMP_NLT_UQ)
                                              : _mm512_mask_cmp_ps_mask(present, value, bound, _CMP_GE_OQ);
        bits[j / 8] = (uint8_t)signs;
        if (count > 8)
            bits[j / 8 + 1] = (uint8_t)(signs >> 8);
    }
}
#endif

static row_function *row_function_for(bnncc_isa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case BNNCC_ISA_AVX2:
        return row_avx2;
    case BNNCC_ISA_AVX512BW:
    case BNNCC_ISA_AVX512VPOPCNTDQ:
        return row_avx512;
#endif
    default:
        return row_portable;
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
    row_function *row;
} binarize_job;

static void binarize_rows(void *argument, size_t begin, size_t end) {
    const binarize_job *job = argument;
    const bnncc_binarize_params *params = job->params;
    const size_t width = (size_t)params->width, rows = (size_t)params->rows;
    const bool many_thresholds = params->threshold_count > 1, many_directions = params->direction_count > 1;
    for (size_t row = begin; row < end; row++) {
        const size_t channel = params->per_feature ? 0 : row / rows % (size_t)params->channels;
        const rule rule = {
            .threshold = params->threshold + (many_thresholds ? channel : 0),
            .direction = params->direction + (many_directions ? channel : 0),
            .threshold_step = params->per_feature && many_thresholds,
            .direction_step = params->per_feature && many_directions,
            .nan_bit = params->nan_bit != 0,
        };
        job->row(job->x + row * width, width, &rule, job->bits + row * sign_bytes(width));
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
    binarize_job job = {params, x, bits, row_function_for(isa)};
    parallel_ranges(parallel, rows, (size_t)params->width / 4 + 8, binarize_rows, &job);
    return BNNCC_OK;
}
