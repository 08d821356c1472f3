/* Which kernel serves a convolution.
 *
 * The dot kernel's time goes with output pixels times words of filters. The bit-plane kernel's goes with vectors times
 * planes along the tree, however many of a vector's lanes hold pixels: it wins where maps, or the maps of a batch, fill
 * the lanes, and where the trees have short edges. The channel kernel's goes with output pixels times the inputs that
 * differ from a reference, of which there are the fewer the more alike neighbouring pixels are: it wins on small maps
 * with many filters. The figures are times on one machine (Zen 5); what matters is how
 * they compare, which differs little between CPUs with the same instructions. */
#include "conv_kernel.h"
#include "checked.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "auto", or the name of a kernel and, after a space, the bits of its lanes. */
static bool parse(const char *text, conv_request *request) {
    static const char *const names[] = {"auto", "dot", "planes", "channels"};
    static const size_t lane_bits[] = {64, 128, 256, 512};
    for (size_t kernel = CONV_KERNEL_AUTO; kernel <= CONV_KERNEL_CHANNELS; kernel++) {
        const size_t length = strlen(names[kernel]);
        if (strncmp(text, names[kernel], length) != 0)
            continue;
        request->kernel = (conv_kernel)kernel;
        request->lane_bits = 0;
        if (!text[length])
            return true;
        for (size_t i = 0; kernel >= CONV_KERNEL_PLANES && i < sizeof lane_bits / sizeof *lane_bits; i++) {
            char bits[8];
            snprintf(bits, sizeof bits, " %zu", lane_bits[i]);
            request->lane_bits = lane_bits[i];
            if (strcmp(text + length, bits) == 0)
                return true;
        }
    }
    return false;
}

bnncc_status conv_kernel_requested(const char *hint, conv_request *request, bnncc_error *error) {
    const char *forced = getenv("BNNCC_KERNEL");
    *request = (conv_request){.kernel = CONV_KERNEL_AUTO};
    if (forced && *forced) {
        if (!parse(forced, request))
            return fail(error, BNNCC_INVALID_ARGUMENT,
                        "BNNCC_KERNEL is \"%.32s\"; it may be auto, dot, planes or channels, the latter two with lanes "
                        "as in \"planes 256\"",
                        forced);
    } else if (hint) {
        request->hint = true;
        if (!parse(hint, request))
            return fail(error, BNNCC_INVALID_ARGUMENT, "the kernel \"%.32s\" is none of auto, dot, planes and channels",
                        hint);
    }
    return BNNCC_OK;
}

double dot_cost(bnncc_isa isa, size_t words, size_t taps, size_t filters, size_t groups, double pixels) {
    const double word = isa == BNNCC_ISA_AVX512VPOPCNTDQ ? 0.034
                        : isa == BNNCC_ISA_AVX512BW      ? 0.07
                        : isa == BNNCC_ISA_AVX2          ? 0.14
                                                         : 1.0;
    /* Per group and pixel: taps whose channels are whole words are copied, others moved. */
    const double gather_tap = words % taps == 0 ? 0.8 : 3.0;
    const double output = isa == BNNCC_ISA_PORTABLE ? 1.5 : 0.25; /* floats or bits */
    return pixels * ((double)filters * ((double)words * word + output) + (double)taps * (double)groups * gather_tap);
}

double planes_cost(const planes_plan *plan, size_t work, bool floats, size_t batch, size_t out_height, size_t threads) {
    const double plane = plan->lane_bytes == 64   ? 0.36
                         : plan->halves == 2      ? 0.26
                         : plan->lane_bytes == 32 ? 0.45
                                                  : 0.52;
    /* Maps that are not narrow are prepared row by row and slot by slot. */
    const double prepare = plan->narrow ? 3.0 : 6.0 * (double)(plan->lane_bytes / plan->pitch);
    planes_split split;
    if (!planes_split_run(plan, work, batch, out_height, threads, &split))
        return HUGE_VAL;
    const double columns = (double)(plan->group_channels * (size_t)plan->params.kernel_shape[1]);
    const double counted = (double)split.rows * (double)work / (double)plan->params.group * plane;
    const double prepared = (double)split.input_rows * columns * prepare;
    const double expand_byte = plan->isa == BNNCC_ISA_AVX512VPOPCNTDQ ? 0.5 /* GFNI comes with it */
                               : plan->isa == BNNCC_ISA_AVX512BW      ? 0.8
                               : plan->isa == BNNCC_ISA_AVX2          ? 1.7
                                                                      : 40.0;
    const double slots = floats ? (double)(split.rows * (plan->lane_bytes / plan->pitch)) : 0;
    const double slot_bytes = plan->pitch > 1 ? (double)plan->pitch : 2; /* that it takes the time of */
    const double expanded = slots * (double)plan->group_filters * slot_bytes * expand_byte;
    return (double)split.rounds * (counted + prepared + expanded);
}

double channels_cost(const channels_plan *plan, double differing, bool floats, size_t batch, size_t out_height) {
    const bool avx512 = plan->isa >= BNNCC_ISA_AVX512BW, halves = avx512 && plan->lane_bytes == 32;
    /* Of an input that differs, in pairs of windows; a 512-bit vector may have both windows. */
    const double plane = halves ? 0.27 : avx512 ? 0.30 : plan->lane_bytes == 32 ? 0.43 : 0.51;
    const double window = halves ? 20.0 : 45.0, tap = 2.0, pixel_word = avx512 ? 1.0 : 4.0;
    const double list_step = avx512 ? 0.075 : 1.2 * differing;
    const double expand_filter = avx512 ? 0.12 : plan->lane_bytes == 32 ? 1.1 : 5.0;
    const double groups = (double)plan->params.group, channels = (double)plan->group_channels;
    const double blocks = (double)plan->blocks, filters = (double)plan->group_filters;
    const double chunks = (double)divide_up(plan->taps, plan->chunk_taps);
    const double pixels = (double)batch * (double)out_height * (double)plan->out_width;
    const double inputs = pixels * (double)(plan->params.strides[0] * plan->params.strides[1]);
    const double counted = (double)plan->length * plan->inside * differing * plane;
    const double per_pixel = blocks * (counted + chunks * window) + (double)plan->taps * tap +
                             (floats ? filters * expand_filter : filters / 64 * pixel_word);
    const double per_input = channels * list_step + (channels / 64 + 1) * pixel_word;
    const double per_image = (double)plan->length * blocks * plane;
    return groups * (pixels * per_pixel + inputs * per_input + (double)batch * per_image);
}
