/* The dot kernel's convolution: windows are gathered, and dot products with the filters taken. It serves every layer.
 */
#ifndef BNNCC_DOT_CONV_H
#define BNNCC_DOT_CONV_H

#include "bnncc.h"
#include "epilogue.h"

#include <stddef.h>

typedef struct dot_conv dot_conv;

/* params: valid, with an output of `out_width` > 0 pixels; isa: one that bnncc_isa_resolve gave; weight: as
 * bnncc_conv_create takes it; `epilogue`: to be kept as long as the convolution. */
bnncc_status dot_conv_create(const bnncc_conv_params *params, size_t out_width, bnncc_isa isa, const uint8_t *weight,
                             const epilogue *epilogue, dot_conv **conv, bnncc_error *error);
void dot_conv_destroy(dot_conv *conv);
/* As bnncc_conv_run, its arguments checked: batch, height and the output's height are at least 1, and the sizes of x
 * and of the outputs do not overflow. */
bnncc_status dot_conv_run(const dot_conv *conv, const uint8_t *x, steps_inputs inputs, size_t batch, size_t height,
                          size_t out_height, float *y, uint8_t *bits, const bnncc_parallel *parallel,
                          bnncc_error *error);

#endif /* BNNCC_DOT_CONV_H */
