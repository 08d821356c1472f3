/* What float output goes through after scale and shift, and the bits taken from it. */
#ifndef BNNCC_EPILOGUE_STEPS_H
#define BNNCC_EPILOGUE_STEPS_H

#include "bnncc.h"

#include <stdbool.h>

/* Tensors that steps read beside the layer's own output; NULL where no step does. */
typedef struct steps_inputs {
    const float *residual;    /* [image][channel][row][column] */
    const float *window_sums; /* [image][group][row][column] */
} steps_inputs;

struct steps;
/* The steps on `count` <= 64 floats of a channel: from `values`, which are lost, to y. inputs: those of the same
 * positions; the residual may be y itself. Returns the bits taken from y, 0 where there are none. */
typedef uint64_t steps_function(const struct steps *steps, size_t channel, float *values, steps_inputs inputs,
                                size_t count, float *y);

typedef struct steps {
    size_t count; /* 0: there are none, nor anything else here */
    bool has_residual, has_window_sum;
    bool nan_bit;
    uint8_t kinds[BNNCC_STEP_LIMIT];
    float *operands;   /* [channel][count] */
    float *threshold;  /* one value per channel; NULL for no bits */
    int8_t *direction; /* the same */
    steps_function *apply;
} steps;

/* Checks `from`, which may be NULL for no steps, and copies its arrays for `channels` output channels. On failure
 * nothing is left to destroy. */
bnncc_status steps_create(steps *to, const bnncc_steps *from, size_t channels, bnncc_isa isa, bnncc_error *error);
void steps_destroy(steps *steps);

#endif /* BNNCC_EPILOGUE_STEPS_H */
