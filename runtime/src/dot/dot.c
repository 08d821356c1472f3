/* The dot kernel of an instruction set, and the layout of its weights. */
#include "dot.h"
#include "../checked.h"

const dot_kernel *dot_kernel_for(bnncc_isa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case BNNCC_ISA_AVX2:
        return &dot_avx2;
    case BNNCC_ISA_AVX512BW:
        return &dot_avx512bw;
    case BNNCC_ISA_AVX512VPOPCNTDQ:
        return &dot_avx512vpopcntdq;
#endif
    default:
        return &dot_portable;
    }
}

size_t dot_weight_count(const dot_kernel *kernel, size_t filters, size_t words, bool *overflow) {
    const size_t registers = divide_up(filters, kernel->lanes);
    return times(times(registers, words, overflow), kernel->lanes, overflow);
}

void dot_place_filter(const dot_kernel *kernel, uint64_t *weights, size_t words, size_t filter, const uint64_t *row) {
    uint64_t *lane = weights + filter / kernel->lanes * words * kernel->lanes + filter % kernel->lanes;
    for (size_t word = 0; word < words; word++)
        lane[word * kernel->lanes] = row[word];
}

const uint64_t *dot_tile_weights(const dot_kernel *kernel, const uint64_t *weights, size_t words, size_t filter) {
    return weights + filter / kernel->lanes * words * kernel->lanes;
}
