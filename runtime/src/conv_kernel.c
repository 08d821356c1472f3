/* Which kernel serves a convolution.
 *
 * The dot kernel's time goes with output pixels times words of filters. The bit-plane kernel's goes with vectors times
 * planes along the tree, however many of a vector's lanes hold pixels: it wins where maps, or the maps of a batch, fill
 * the lanes, and where the trees have short edges. The figures are times on one machine (Zen 5); what matters is how
 * they compare, which differs little between CPUs with the same instructions. */
#include "conv_kernel.h"
#include "checked.h"

#include <stdlib.h>
#include <string.h>

bnncc_status conv_kernel_requested(conv_kernel *kernel, bnncc_error *error) {
    const char *name = getenv("BNNCC_KERNEL");
    if (!name || !*name || strcmp(name, "auto") == 0)
        *kernel = CONV_KERNEL_AUTO;
    else if (strcmp(name, "dot") == 0)
        *kernel = CONV_KERNEL_DOT;
    else if (strcmp(name, "planes") == 0)
        *kernel = CONV_KERNEL_PLANES;
    else
        return fail(error, BNNCC_INVALID_ARGUMENT, "BNNCC_KERNEL is \"%.32s\"; it may be auto, dot or planes", name);
    return BNNCC_OK;
}

double dot_cost(bnncc_isa isa, size_t words, size_t taps, size_t filters, size_t groups, double pixels) {
    const double word = isa == BNNCC_ISA_AVX512VPOPCNTDQ ? 0.034
                        : isa == BNNCC_ISA_AVX512BW      ? 0.07
                        : isa == BNNCC_ISA_AVX2          ? 0.14
                                                         : 1.0;
    const double gather_tap = 3.0; /* per group and pixel */
    return pixels * ((double)words * (double)filters * word + (double)taps * (double)groups * gather_tap);
}

double planes_cost(const planes_plan *plan, size_t work, bool floats, size_t batch, size_t out_height) {
    const double plane = plan->lane_bytes == 64                                      ? 0.36
                         : plan->lane_bytes == 32 && plan->isa >= BNNCC_ISA_AVX512BW ? 0.30
                         : plan->lane_bytes == 32                                    ? 0.45
                                                                                     : 1.2;
    /* Maps that are not narrow are prepared row by row and slot by slot. */
    const double prepare = plan->narrow ? 3.0 : 6.0 * (double)(plan->lane_bytes / plan->pitch);
    size_t counted = 0, prepared = 0;
    planes_vectors(plan, batch, out_height, &counted, &prepared);
    const double expand_row = plan->isa >= BNNCC_ISA_AVX512BW ? 3.0 + 1.5 * (double)plan->pitch : 150.0;
    const double rows = floats ? (double)batch * (double)out_height * (double)plan->segments : 0;
    return (double)counted * (double)work * plane + (double)prepared * prepare +
           rows * (double)plan->params.out_channels * expand_row;
}
