/* The bit-plane kernel: binary convolution with output pixels in the lanes of vectors and filters in a tree.
 *
 * A plane holds one input of the window (channel, row, column) for as many output pixels as there are lanes. Counters
 * are planes too ("vertical"): plane k holds bit k of every pixel's count. A filter's counters follow from those of
 * another, its parent in the tree, by adding the planes of the inputs where it alone is 1 and subtracting those where
 * only its parent is.
 *
 * Lanes. A vector has slots of `pitch` bytes, each for one row of one output map. A map is cut into bands of `rows`
 * rows; slot s of vector j holds row j of band s. The input row that tap r of output vector j needs is thus in every
 * slot that of input vector j * stride + r * dilation: all loads are of whole, aligned vectors, and vertical taps share
 * them. Horizontal taps have copies of their own, shifted (and thinned out by the stride). Bands of all images and,
 * where a map is wider than 64 pixels, all its segments lie side by side; those that fill a vector are a sheet. */
#ifndef BNNCC_PLANES_H
#define BNNCC_PLANES_H

#include "bnncc.h"
#include "epilogue.h"
#include "tree/tree.h"

#include <stdbool.h>

/* How a layer lies in lanes of one width. */
typedef struct planes_plan {
    bnncc_conv_params params;
    bnncc_isa isa;
    size_t lane_bytes;
    size_t out_width;
    size_t halves;   /* 2: vectors of twice as many lanes count two planes at a time */
    size_t pitch;    /* bytes of a slot: 1, 2, 4 or 8 */
    size_t segments; /* of 64 output pixels, that a row is cut into */
    bool narrow; /* maps are no wider than a slot and without horizontal stride, so that rows are copied as they are */
    size_t group_filters, group_channels, length;
    int counter_planes;
    /* Classes of rows: taps [above, kernel_rows - below) lie inside; class above * below_count + below. */
    size_t above_count, below_count;
    /* Vectors per channel and column, which the programs' indices count on: bands may be lower, never higher. */
    size_t planned_rows, most_rows; /* the highest band that those are enough for */
} planes_plan;

/* Whether the kernel can serve a layer (whose params are valid, with an output of `out_width` > 0 pixels) with lanes of
 * 64, 32 or 8 bytes and this instruction set, and how. What it cannot serve has too many inputs for the kernel's
 * indices, or would need enormous tables. */
bool planes_plan_create(const bnncc_conv_params *params, size_t out_width, bnncc_isa isa, size_t lane_bytes,
                        planes_plan *plan);

/* Planes that one vector of output pixels takes for the filters of all groups, with what fills the lists of nodes. */
size_t planes_work(const planes_plan *plan, const group_tree *trees);

/* How a run's rows lie in vectors. */
typedef struct planes_split {
    size_t rows, input_rows; /* of a band, and those of the input that it needs */
    size_t bands;            /* of an image and a segment */
    size_t sheets;
    size_t rounds; /* groups of sheets that the busiest thread works at */
} planes_split;

/* Cuts a run into bands so that its threads have about the same to do; `work`: see planes_work. False where sizes
 * overflow. */
bool planes_split_run(const planes_plan *plan, size_t work, size_t batch, size_t out_height, size_t threads,
                      planes_split *split);

typedef struct planes_conv planes_conv;

/* `trees`: one per group, to be given up afterwards; `epilogue`: to be kept as long as the convolution. */
bnncc_status planes_conv_create(const planes_plan *plan, const group_tree *trees, const epilogue *epilogue,
                                planes_conv **conv, bnncc_error *error);
void planes_conv_destroy(planes_conv *conv);
/* As bnncc_conv_run, its arguments checked: batch, height and the output's height are at least 1, and the sizes of x
 * and of the outputs do not overflow. */
bnncc_status planes_conv_run(const planes_conv *conv, const uint8_t *x, steps_inputs inputs, size_t batch,
                             size_t height, size_t out_height, float *y, uint8_t *bits, const bnncc_parallel *parallel,
                             bnncc_error *error);

#endif /* BNNCC_PLANES_H */
