/* From vertical counters to floats: the plain form of planes_expand_function.
 *
 * The dot products are exact however they are computed: integers that float32 holds. What follows, dot * scale and then
 * + shift, is rounded twice: so is it in all versions, which are to be compiled with -ffp-contract=off, as
 * epilogue.c and for its reason. */
#include "program.h"
#include "signs.h"

void planes_expand_portable(const planes_expansion *block, size_t channels) {
    const uint32_t mask = (uint32_t)low_bits(block->planes);
    for (size_t channel = 0; channel < channels; channel++)
        for (const planes_run *run = block->runs; run < block->runs + block->run_count; run++) {
            const float *sums = run->sums + channel * block->sums_step;
            float *y = run->y + channel * block->y_step;
            for (size_t i = 0; i < run->count; i++) {
                const size_t lane = run->at + i;
                const uint8_t *from = block->counted + channel * block->counted_step + lane / 8;
                uint32_t value = 0;
                for (size_t k = 0; k < block->planes; k++)
                    value |= (uint32_t)(from[k * block->lane_bytes] >> lane % 8 & 1) << k;
                const float counted = (float)(int32_t)((value + block->add[channel]) & mask);
                const float dot = counted * block->factor[channel] + sums[i];
                const float product = dot * block->scale[channel];
                y[i] = product + block->shift[channel];
            }
        }
}
