/* What becomes of the integer dot products: floats by scale and shift, bits by threshold.
 *
 * This file must be compiled with -ffp-contract=off. dot * scale is rounded to float32 before shift is added, since
 * that is what onnxruntime's BatchNormalization, and the ops' function bodies, compute. A compiler that contracts the
 * two into a fused multiply-add, which AVX-512 has, would round once: a more precise and thus a different number. */
#include "epilogue.h"
#include "checked.h"
#include "signs.h"

#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* |dot| <= 2^24 (DOT_LIMIT), so the conversion to float32 is exact. */
__attribute__((always_inline)) static inline void floats(const int32_t *dots, size_t count, float scale, float shift,
                                                         float *y) {
    for (size_t i = 0; i < count; i++) {
        const float product = (float)dots[i] * scale;
        y[i] = product + shift;
    }
}

static void floats_portable(const int32_t *dots, size_t count, float scale, float shift, float *y) {
    floats(dots, count, scale, shift, y);
}

static uint64_t signs_portable(const int32_t *dots, size_t count, int32_t threshold) {
    uint64_t signs = 0;
    for (size_t i = 0; i < count; i++)
        signs |= (uint64_t)(dots[i] >= threshold) << i;
    return signs;
}

#if defined(__x86_64__)
/* The same loops, for wider registers: with AVX2 the compiler vectorizes the floats, the others are written out. */
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

AVX2 static void floats_avx2(const int32_t *dots, size_t count, float scale, float shift, float *y) {
    floats(dots, count, scale, shift, y);
}

AVX2 static uint64_t signs_avx2(const int32_t *dots, size_t count, int32_t threshold) {
    const __m256i bound = _mm256_set1_epi32(threshold);
    uint64_t signs = 0;
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m256i below = _mm256_cmpgt_epi32(bound, _mm256_loadu_si256((const __m256i *)(dots + i)));
        signs |= (uint64_t)(uint8_t)~_mm256_movemask_ps(_mm256_castsi256_ps(below)) << i;
    }
    if (i < count) /* else the shift below may be by 64 */
        signs |= signs_portable(dots + i, count - i, threshold) << i;
    return signs;
}

AVX512 static void floats_avx512(const int32_t *dots, size_t count, float scale, float shift, float *y) {
    const __m512 scales = _mm512_set1_ps(scale), shifts = _mm512_set1_ps(shift);
    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 present = (__mmask16)low_bits(smaller(count - i, 16));
        const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(present, dots + i)), scales);
        _mm512_mask_storeu_ps(y + i, present, _mm512_add_ps(product, shifts));
    }
}

AVX512 static uint64_t signs_avx512(const int32_t *dots, size_t count, int32_t threshold) {
    const __m512i bound = _mm512_set1_epi32(threshold);
    uint64_t signs = 0;
    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 present = (__mmask16)((1u << smaller(count - i, 16)) - 1);
        const __m512i values = _mm512_maskz_loadu_epi32(present, dots + i);
        signs |= (uint64_t)_mm512_mask_cmpge_epi32_mask(present, values, bound) << i;
    }
    return signs;
}
#endif

static void choose_functions(epilogue *epilogue, bnncc_isa isa) {
    epilogue->floats = floats_portable;
    epilogue->signs = signs_portable;
#if defined(__x86_64__)
    if (isa == BNNCC_ISA_AVX2) {
        epilogue->floats = floats_avx2;
        epilogue->signs = signs_avx2;
    } else if (isa == BNNCC_ISA_AVX512BW || isa == BNNCC_ISA_AVX512VPOPCNTDQ) {
        epilogue->floats = floats_avx512;
        epilogue->signs = signs_avx512;
    }
#else
    (void)isa;
#endif
}

/* One value per channel from `count` values, 1 (shared) or `channels`; NULL without memory. */
static float *expand(const float *values, size_t count, size_t channels) {
    float *expanded = allocate(channels, sizeof *expanded);
    if (expanded)
        for (size_t channel = 0; channel < channels; channel++)
            expanded[channel] = values[count == 1 ? 0 : channel];
    return expanded;
}

bnncc_status epilogue_create(epilogue *to, const bnncc_epilogue *from, size_t channels, bnncc_isa isa,
                             bnncc_error *error) {
    if (!from)
        return fail(error, BNNCC_INVALID_ARGUMENT, "epilogue is NULL");
    if (!from->scale != !from->shift)
        return fail(error, BNNCC_INVALID_ARGUMENT, "scale and shift must be given together");
    if (!from->scale && !from->threshold)
        return fail(error, BNNCC_INVALID_ARGUMENT, "the epilogue has neither scale and shift nor threshold");
    if (from->scale && from->scale_count != 1 && from->scale_count != channels)
        return fail(error, BNNCC_INVALID_ARGUMENT, "scale has %zu values, not 1 or %zu", from->scale_count, channels);
    if (from->shift && from->shift_count != 1 && from->shift_count != channels)
        return fail(error, BNNCC_INVALID_ARGUMENT, "shift has %zu values, not 1 or %zu", from->shift_count, channels);
    if (from->threshold && from->threshold_count != channels)
        return fail(error, BNNCC_INVALID_ARGUMENT, "threshold has %zu values, not %zu", from->threshold_count,
                    channels);
    if (from->steps && !from->scale)
        return fail(error, BNNCC_INVALID_ARGUMENT, "there are steps, but no float output for them");
    if (from->steps && from->steps->threshold && from->threshold)
        return fail(error, BNNCC_INVALID_ARGUMENT, "bits are asked for both of the dot product and of the steps");
    *to = (epilogue){0};
    const bnncc_status status = steps_create(&to->steps, from->steps, channels, isa, error);
    if (status)
        return status;
    choose_functions(to, isa);
    if (from->scale) {
        to->scale = expand(from->scale, from->scale_count, channels);
        to->shift = expand(from->shift, from->shift_count, channels);
    }
    if (from->threshold) {
        to->threshold = allocate(channels, sizeof *to->threshold);
        if (to->threshold)
            for (size_t channel = 0; channel < channels; channel++)
                to->threshold[channel] = from->threshold[channel];
    }
    if ((from->scale && (!to->scale || !to->shift)) || (from->threshold && !to->threshold)) {
        epilogue_destroy(to);
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for the epilogue of %zu channels", channels);
    }
    return BNNCC_OK;
}

void epilogue_destroy(epilogue *epilogue) {
    free(epilogue->scale);
    free(epilogue->shift);
    free(epilogue->threshold);
    steps_destroy(&epilogue->steps);
    epilogue->scale = epilogue->shift = NULL;
    epilogue->threshold = NULL;
}

bnncc_status epilogue_check_tensors(const epilogue *epilogue, const float *residual, const float *y,
                                    const uint8_t *bits, bnncc_error *error) {
    const bool gives_bits = epilogue->threshold || epilogue->steps.threshold;
    if (!residual != !epilogue->steps.has_residual)
        return fail(error, BNNCC_INVALID_ARGUMENT,
                    residual ? "residual is given, but no step adds it" : "residual is NULL");
    if (!y != !epilogue->scale)
        return fail(error, BNNCC_INVALID_ARGUMENT,
                    y ? "y is given, but the epilogue has no float output" : "y is NULL");
    if (!bits != !gives_bits)
        return fail(error, BNNCC_INVALID_ARGUMENT,
                    bits ? "bits is given, but the epilogue has no bit output" : "bits is NULL");
    return BNNCC_OK;
}

static void store_bits(const epilogue_tensors *to, const epilogue_tile *tile, size_t channel, uint64_t signs) {
    const size_t row_bytes = sign_bytes(to->width);
    const size_t row = (tile->image * to->channels + channel) * to->height + tile->row;
    uint8_t *bits = to->bits + row * row_bytes + tile->column / 8;
    for (size_t i = 0; i < tile->rows; i++, bits += row_bytes)
        store_word(bits, signs >> i * tile->columns & low_bits(tile->columns), sign_bytes(tile->columns));
}

void epilogue_finish_tile(const epilogue *epilogue, const epilogue_tensors *to, const epilogue_tile *tile, size_t first,
                          size_t count, float (*values)[64], const uint64_t *signs) {
    const size_t plane = to->height * to->width, pixels = tile->rows * tile->columns;
    const size_t in_plane = tile->row * to->width + tile->column;
    const bool steps = epilogue->steps.count > 0;
    if (!steps && !to->bits)
        return;
    steps_inputs inputs = {NULL, NULL};
    if (to->inputs.window_sums) {
        const size_t group = first / (to->channels / to->groups);
        inputs.window_sums = to->inputs.window_sums + (tile->image * to->groups + group) * plane + in_plane;
    }
    for (size_t i = 0; i < count; i++) {
        const size_t at = (tile->image * to->channels + first + i) * plane + in_plane;
        uint64_t word = epilogue->threshold ? signs[i] : 0;
        if (steps) {
            inputs.residual = to->inputs.residual ? to->inputs.residual + at : NULL;
            const uint64_t finished = epilogue_finish(epilogue, first + i, values[i], inputs, pixels, to->y + at);
            word = epilogue->threshold ? word : finished;
        }
        if (to->bits)
            store_bits(to, tile, first + i, word);
    }
}

void epilogue_store_tile(const epilogue *epilogue, const epilogue_tensors *to, const epilogue_tile *tile, size_t first,
                         size_t count, const int32_t *dots) {
    enum { AT_ONCE = 16 }; /* channels: floats just stored in parts of vectors cannot be loaded again at once */
    const size_t plane = to->height * to->width, pixels = tile->rows * tile->columns;
    const bool steps = epilogue->steps.count > 0;
    float values[AT_ONCE][64];
    uint64_t signs[AT_ONCE];
    for (size_t begin = 0, some; begin < count; begin += some, dots += some * 64) {
        some = smaller(count - begin, AT_ONCE);
        /* Pixels of several rows are neighbours in the float tensors. */
        const size_t at = (tile->image * to->channels + first + begin) * plane + tile->row * to->width + tile->column;
        for (size_t i = 0; i < some; i++) {
            if (to->y)
                epilogue_floats(epilogue, first + begin + i, dots + i * 64, pixels,
                                steps ? values[i] : to->y + at + i * plane);
            if (epilogue->threshold)
                signs[i] = epilogue_signs(epilogue, first + begin + i, dots + i * 64, pixels);
        }
        epilogue_finish_tile(epilogue, to, tile, first + begin, some, values, signs);
    }
}
