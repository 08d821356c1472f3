/* Steps of float output, applied to a few positions of a channel at a time while they are in the first cache.
 *
 * To be compiled with -ffp-contract=off, as epilogue.c and for its reason. */
#include "epilogue_steps.h"
#include "checked.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The definition: the steps one after the other, then the bits. Comparisons leave NaN as it is. */
__attribute__((always_inline)) static inline uint64_t apply(const steps *steps, size_t channel, float *values,
                                                            steps_inputs inputs, size_t count, float *y) {
    for (size_t step = 0; step < steps->count; step++) {
        const float operand = steps->operands[channel * steps->count + step];
        switch ((bnncc_step)steps->kinds[step]) {
        case BNNCC_STEP_ADD:
            for (size_t i = 0; i < count; i++)
                values[i] = values[i] + operand;
            break;
        case BNNCC_STEP_MULTIPLY:
            for (size_t i = 0; i < count; i++)
                values[i] = values[i] * operand;
            break;
        case BNNCC_STEP_RESIDUAL:
            for (size_t i = 0; i < count; i++)
                values[i] = values[i] + inputs.residual[i];
            break;
        case BNNCC_STEP_PRELU:
            for (size_t i = 0; i < count; i++)
                values[i] = values[i] < 0 ? values[i] * operand : values[i];
            break;
        case BNNCC_STEP_MAXIMUM:
            for (size_t i = 0; i < count; i++)
                values[i] = values[i] < operand ? operand : values[i];
            break;
        case BNNCC_STEP_MINIMUM:
            for (size_t i = 0; i < count; i++)
                values[i] = values[i] > operand ? operand : values[i];
            break;
        case BNNCC_STEP_WINDOW_SUM:
            for (size_t i = 0; i < count; i++) {
                const float term = operand * inputs.window_sums[i];
                values[i] = values[i] + term;
            }
            break;
        }
    }
    memcpy(y, values, count * sizeof *y);
    uint64_t signs = 0;
    if (steps->threshold) {
        const float threshold = steps->threshold[channel];
        const bool upward = steps->direction[channel] > 0;
        for (size_t i = 0; i < count; i++) {
            const bool compared = upward ? values[i] >= threshold : values[i] <= threshold;
            signs |= (uint64_t)(values[i] != values[i] ? steps->nan_bit : compared) << i;
        }
    }
    return signs;
}

static uint64_t apply_portable(const steps *steps, size_t channel, float *values, steps_inputs inputs, size_t count,
                               float *y) {
    return apply(steps, channel, values, inputs, count, y);
}

#if defined(__x86_64__)
/* The same loops, for wider registers. */
__attribute__((target("avx2"))) static uint64_t apply_avx2(const steps *steps, size_t channel, float *values,
                                                           steps_inputs inputs, size_t count, float *y) {
    return apply(steps, channel, values, inputs, count, y);
}

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

/* The positions of so many vectors, the last of which may be a part of one, in registers from the first step to the
 * bits: the number is a constant where it is called. */
AVX512 __attribute__((always_inline)) static inline uint64_t vectors_avx512(const steps *steps, size_t channel,
                                                                            const float *from, steps_inputs inputs,
                                                                            const size_t vectors, size_t count,
                                                                            float *y) {
    const size_t last = vectors - 1;
    const __mmask16 present = (__mmask16)(0xffffu >> (16 * vectors - count));
    const __m512 zero = _mm512_setzero_ps();
    __m512 values[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < last; i++)
        values[i] = _mm512_loadu_ps(from + 16 * i);
    values[last] = _mm512_maskz_loadu_ps(present, from + 16 * last);
    for (size_t step = 0; step < steps->count; step++) {
        const __m512 operand = _mm512_set1_ps(steps->operands[channel * steps->count + step]);
        switch ((bnncc_step)steps->kinds[step]) {
        case BNNCC_STEP_ADD:
#pragma GCC unroll 4
            for (size_t i = 0; i < vectors; i++)
                values[i] = _mm512_add_ps(values[i], operand);
            break;
        case BNNCC_STEP_MULTIPLY:
#pragma GCC unroll 4
            for (size_t i = 0; i < vectors; i++)
                values[i] = _mm512_mul_ps(values[i], operand);
            break;
        case BNNCC_STEP_RESIDUAL:
#pragma GCC unroll 4
            for (size_t i = 0; i < last; i++)
                values[i] = _mm512_add_ps(values[i], _mm512_loadu_ps(inputs.residual + 16 * i));
            values[last] = _mm512_add_ps(values[last], _mm512_maskz_loadu_ps(present, inputs.residual + 16 * last));
            break;
        case BNNCC_STEP_PRELU:
#pragma GCC unroll 4
            for (size_t i = 0; i < vectors; i++)
                values[i] =
                    _mm512_mask_mul_ps(values[i], _mm512_cmp_ps_mask(values[i], zero, _CMP_LT_OQ), values[i], operand);
            break;
        case BNNCC_STEP_MAXIMUM: /* where one of the two is NaN, these give the second: the value itself */
#pragma GCC unroll 4
            for (size_t i = 0; i < vectors; i++)
                values[i] = _mm512_max_ps(operand, values[i]);
            break;
        case BNNCC_STEP_MINIMUM:
#pragma GCC unroll 4
            for (size_t i = 0; i < vectors; i++)
                values[i] = _mm512_min_ps(operand, values[i]);
            break;
        case BNNCC_STEP_WINDOW_SUM:
#pragma GCC unroll 4
            for (size_t i = 0; i < vectors; i++) {
                const __mmask16 here = i < last ? 0xffff : present;
                const __m512 term = _mm512_mul_ps(operand, _mm512_maskz_loadu_ps(here, inputs.window_sums + 16 * i));
                values[i] = _mm512_add_ps(values[i], term);
            }
            break;
        }
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < last; i++)
        _mm512_storeu_ps(y + 16 * i, values[i]);
    _mm512_mask_storeu_ps(y + 16 * last, present, values[last]);
    if (!steps->threshold)
        return 0;
    /* x <= t exactly where -x >= -t; "not less than" is "greater or equal" but for NaN, where it holds. */
    const __m512 flip = steps->direction[channel] > 0 ? _mm512_setzero_ps() : _mm512_set1_ps(-0.0f);
    const __m512 threshold = _mm512_xor_ps(_mm512_set1_ps(steps->threshold[channel]), flip);
    uint64_t signs = 0;
#pragma GCC unroll 4
    for (size_t i = 0; i < vectors; i++) {
        const __m512 value = _mm512_xor_ps(values[i], flip);
        const __mmask16 compared = steps->nan_bit ? _mm512_cmp_ps_mask(value, threshold, _CMP_NLT_UQ)
                                                  : _mm512_cmp_ps_mask(value, threshold, _CMP_GE_OQ);
        signs |= (uint64_t)(i < last ? compared : compared & present) << (16 * i);
    }
    return signs;
}

AVX512 static uint64_t apply_avx512(const steps *steps, size_t channel, float *values, steps_inputs inputs,
                                    size_t count, float *y) {
    switch (divide_up(count, 16)) {
    case 4:
        return vectors_avx512(steps, channel, values, inputs, 4, count, y);
    case 3:
        return vectors_avx512(steps, channel, values, inputs, 3, count, y);
    case 2:
        return vectors_avx512(steps, channel, values, inputs, 2, count, y);
    case 1:
        return vectors_avx512(steps, channel, values, inputs, 1, count, y);
    default:
        return 0;
    }
}
#endif

static steps_function *function_for(bnncc_isa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case BNNCC_ISA_AVX2:
        return apply_avx2;
    case BNNCC_ISA_AVX512BW:
    case BNNCC_ISA_AVX512VPOPCNTDQ:
        return apply_avx512;
#endif
    default:
        return apply_portable;
    }
}

/* 1 (shared) or one per channel. */
static bnncc_status check_count(const char *name, size_t count, size_t channels, bnncc_error *error) {
    if (count != 1 && count != channels)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s has %zu values, not 1 or %zu", name, count, channels);
    return BNNCC_OK;
}

static bnncc_status check_steps(const bnncc_steps *from, size_t channels, bnncc_error *error) {
    if (from->count < 1 || from->count > BNNCC_STEP_LIMIT)
        return fail(error, BNNCC_INVALID_ARGUMENT, "there are %zu steps, not 1 to %d", from->count, BNNCC_STEP_LIMIT);
    if (!from->kinds || !from->operands)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the steps' kinds or operands are NULL");
    size_t residuals = 0;
    for (size_t step = 0; step < from->count; step++) {
        if (from->kinds[step] < BNNCC_STEP_ADD || from->kinds[step] > BNNCC_STEP_WINDOW_SUM)
            return fail(error, BNNCC_INVALID_ARGUMENT, "step %zu is of kind %d, which is none", step,
                        (int)from->kinds[step]);
        residuals += from->kinds[step] == BNNCC_STEP_RESIDUAL;
    }
    if (residuals > 1)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%zu steps add the residual, not one at most", residuals);
    bnncc_status status = check_count("operands of a step", from->operand_count, channels, error);
    if (status || (!from->threshold && !from->direction))
        return status;
    if (!from->threshold || !from->direction)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the steps' threshold and direction must be given together");
    status = check_count("threshold", from->threshold_count, channels, error);
    if (!status)
        status = check_count("direction", from->direction_count, channels, error);
    return status ? status
                  : check_comparison(from->threshold, from->threshold_count, from->direction, from->direction_count,
                                     error);
}

bnncc_status steps_create(steps *to, const bnncc_steps *from, size_t channels, bnncc_isa isa, bnncc_error *error) {
    *to = (steps){.count = 0};
    if (!from)
        return BNNCC_OK;
    const bnncc_status status = check_steps(from, channels, error);
    if (status)
        return status;
    bool overflow = false;
    const size_t values = times(channels, from->count, &overflow);
    to->operands = overflow ? NULL : allocate(values, sizeof *to->operands);
    if (from->threshold) {
        to->threshold = allocate(channels, sizeof *to->threshold);
        to->direction = allocate(channels, sizeof *to->direction);
    }
    if (!to->operands || (from->threshold && (!to->threshold || !to->direction))) {
        steps_destroy(to);
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for the steps of %zu channels", channels);
    }
    to->count = from->count;
    to->nan_bit = from->nan_bit != 0;
    to->apply = function_for(isa);
    for (size_t step = 0; step < from->count; step++) {
        to->kinds[step] = (uint8_t)from->kinds[step];
        to->has_residual |= from->kinds[step] == BNNCC_STEP_RESIDUAL;
        to->has_window_sum |= from->kinds[step] == BNNCC_STEP_WINDOW_SUM;
        const float *operands = from->operands + step * from->operand_count;
        for (size_t channel = 0; channel < channels; channel++)
            to->operands[channel * from->count + step] = operands[from->operand_count == 1 ? 0 : channel];
    }
    for (size_t channel = 0; from->threshold && channel < channels; channel++) {
        to->threshold[channel] = from->threshold[from->threshold_count == 1 ? 0 : channel];
        to->direction[channel] = from->direction[from->direction_count == 1 ? 0 : channel];
    }
    return BNNCC_OK;
}

void steps_destroy(steps *steps) {
    free(steps->operands);
    free(steps->threshold);
    free(steps->direction);
    *steps = (struct steps){.count = 0};
}
