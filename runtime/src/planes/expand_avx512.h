/* From vertical counters to floats with AVX-512: the definition of EXPAND_FUNCTION, with BYTES_BY_GFNI or without. */
#include "bytes_of_lanes_avx512.h"
#include "program.h"

enum { NEXT_BLOCK = 4 * 16 }; /* from the numbers of 16 lanes of a slot to those of the next 16 */

/* What all pixels of a channel share. */
typedef struct channel_floats {
    __m512 factor, scale, shift;
    size_t sums_at, y_at;
} channel_floats;

BYTES_INLINE __m512 floats_of(const uint16_t *numbers, __m512 sums, const channel_floats *channel) {
    const __m256i some = _mm256_loadu_si256((const __m256i *)(const void *)numbers);
    const __m512 dot = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(some)), channel->factor, sums);
    return _mm512_add_ps(_mm512_mul_ps(dot, channel->scale), channel->shift);
}

/* Runs of as many whole registers, a part of one as large, and the same sums: where their first numbers are, and y. */
typedef struct run_group {
    size_t registers;
    __mmask16 rest;
    const float *sums;
    size_t begin, end;
} run_group;

typedef struct run_groups {
    run_group groups[64];
    size_t count;
    size_t first[64];
    float *y[64];
} run_groups;

static inline void group_runs(const planes_expansion *block, run_groups *to) {
    to->count = 0;
    for (size_t i = 0; i < block->run_count; i++) {
        const planes_run *run = &block->runs[i];
        run_group *last = to->count ? &to->groups[to->count - 1] : NULL;
        if (last && run->sums == last->sums && run->count == block->runs[i - 1].count)
            last->end++;
        else
            to->groups[to->count++] =
                (run_group){run->count / 16, (__mmask16)low_bits(run->count % 16), run->sums, i, i + 1};
        to->first[i] = number_of_lane(run->at);
        to->y[i] = run->y;
    }
}

/* A group of a channel; how many whole registers it takes is a constant where this is called. */
BYTES_INLINE void store_group(const run_groups *runs, const run_group *group, const uint16_t *numbers,
                              const size_t registers, const channel_floats *channel) {
    __m512 sums[5];
#pragma GCC unroll 4
    for (size_t i = 0; i < registers; i++)
        sums[i] = _mm512_loadu_ps(group->sums + channel->sums_at + 16 * i);
    const __mmask16 rest = group->rest;
    sums[registers] = _mm512_maskz_loadu_ps(rest, group->sums + channel->sums_at + 16 * registers);
    for (size_t run = group->begin; run < group->end; run++) {
        const uint16_t *from = numbers + runs->first[run];
        float *y = runs->y[run] + channel->y_at;
#pragma GCC unroll 4
        for (size_t i = 0; i < registers; i++)
            _mm512_storeu_ps(y + 16 * i, floats_of(from + i * NEXT_BLOCK, sums[i], channel));
        if (rest)
            _mm512_mask_storeu_ps(y + 16 * registers, rest,
                                  floats_of(from + registers * NEXT_BLOCK, sums[registers], channel));
    }
}

BYTES_TARGET void EXPAND_FUNCTION(const planes_expansion *block, size_t channels) {
    const size_t lane_bytes = block->lane_bytes, at_once = 64 / lane_bytes;
    run_groups runs;
    group_runs(block, &runs);
    for (size_t channel = 0; channel < channels; channel += at_once) {
        const size_t last = smaller(channel + at_once, channels) - 1; /* alone, a channel takes both places */
        const uint8_t *const counted[2] = {block->counted + channel * block->counted_step,
                                           block->counted + last * block->counted_step};
        const uint32_t add[2] = {block->add[channel], block->add[last]};
        _Alignas(64) uint16_t numbers[512 + 16]; /* sixteen may be read from the middle of sixteen on */
        numbers_of_lanes(counted, lane_bytes, block->planes, add, numbers);
        for (size_t i = channel; i <= last; i++) {
            const channel_floats floats = {_mm512_set1_ps(block->factor[i]), _mm512_set1_ps(block->scale[i]),
                                           _mm512_set1_ps(block->shift[i]), i * block->sums_step, i * block->y_step};
            const uint16_t *first = numbers + number_of_lane((i - channel) * 256);
            for (const run_group *group = runs.groups; group < runs.groups + runs.count; group++)
                switch (group->registers) {
                case 4:
                    store_group(&runs, group, first, 4, &floats);
                    break;
                case 3:
                    store_group(&runs, group, first, 3, &floats);
                    break;
                case 2:
                    store_group(&runs, group, first, 2, &floats);
                    break;
                case 1:
                    store_group(&runs, group, first, 1, &floats);
                    break;
                default:
                    store_group(&runs, group, first, 0, &floats);
                }
        }
    }
}
