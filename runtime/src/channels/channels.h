/* The channel kernel: binary convolution with filters in the lanes of vectors, for maps too small to fill them.
 *
 * A plane holds one weight (of a tap and an input channel) of as many filters as a vector has bits: a block. An output
 * pixel adds the planes of the inputs that are +1 to vertical counters, one count for every filter. Neighbouring pixels
 * see much the same, so what is counted is not the inputs but where they differ from a reference: the sign that most
 * pixels of the map have in that channel; and what two neighbours count alike is counted once for both. With r the
 * reference, n inputs that differ, V inputs inside the image, and c_F(S) the number of inputs of a set S where filter F
 * has the sign opposite to the reference's, dot = V - 2 c(inside) + 2 (2 c(differing) - n), of which the first two
 * terms are the same for all windows that the image's edges cut alike. */
#ifndef BNNCC_CHANNELS_H
#define BNNCC_CHANNELS_H

#include "bnncc.h"
#include "epilogue.h"

#include <stdbool.h>

/* How a layer lies in the lanes. */
typedef struct channels_plan {
    bnncc_conv_params params;
    bnncc_isa isa;
    size_t lane_bytes;
    size_t out_width;
    size_t group_filters, group_channels, taps, length;
    size_t blocks;       /* of a group's filters */
    double inside;       /* the share of taps that are not in padding of zeros, where maps are square */
    int counters;        /* planes that hold a count of `length` */
    size_t lists_of_row; /* of an input row, see channels/run.c */
    /* One group's planes of a block are [tap][1 + 2 * group_channels]: zeros, then the weights, then their
     * complements. */
    size_t tap_bytes, block_bytes;
    size_t chunk_taps; /* whose planes are met by all windows before the next ones are */
} channels_plan;

/* Whether the kernel can serve a layer (whose params are valid, with an output of `out_width` > 0 pixels), and how.
 * What it cannot serve would need enormous tables. */
bool channels_plan_create(const bnncc_conv_params *params, size_t out_width, bnncc_isa isa, channels_plan *plan);

/* An estimate, from some maps of x, of the share of inputs that differ from the sign that most have in their map. x,
 * batch and height: of a run. */
double channels_differing(const bnncc_conv_params *params, const uint8_t *x, size_t batch, size_t height);

typedef struct channels_conv channels_conv;

/* weight: as bnncc_conv_create takes it; `epilogue`: to be kept as long as the convolution. */
bnncc_status channels_conv_create(const channels_plan *plan, const uint8_t *weight, const epilogue *epilogue,
                                  channels_conv **conv, bnncc_error *error);
void channels_conv_destroy(channels_conv *conv);
/* As bnncc_conv_run, its arguments checked: batch, height and the output's height are at least 1, and the sizes of x
 * and of the outputs do not overflow. */
bnncc_status channels_conv_run(const channels_conv *conv, const uint8_t *x, steps_inputs inputs, size_t batch,
                               size_t height, size_t out_height, float *y, uint8_t *bits,
                               const bnncc_parallel *parallel, bnncc_error *error);

#endif /* BNNCC_CHANNELS_H */
