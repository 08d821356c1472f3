/* Random steps of epilogues, and what they are defined to give. */
#ifndef BNNCC_TESTS_RANDOM_STEPS_H
#define BNNCC_TESTS_RANDOM_STEPS_H

#include "support.h"

#include <math.h>

typedef struct random_steps {
    bnncc_steps steps; /* points into this, which must stay where it is */
    int32_t kinds[BNNCC_STEP_LIMIT];
    float *operands, *threshold;
    int8_t *direction;
} random_steps;

/* Any steps in any order, at most one of them the residual's; with bits where `bits`. */
static inline void draw_steps(random_state *random, int64_t channels, bool bits, random_steps *made) {
    const size_t count = (size_t)random_between(random, 1, random_one_in(random, 8) ? BNNCC_STEP_LIMIT : 4);
    const size_t values = random_one_in(random, 3) ? 1 : (size_t)channels;
    bool residual = false;
    *made = (random_steps){.operands = must_allocate(count * values * sizeof(float))};
    for (size_t i = 0; i < count; i++) {
        made->kinds[i] = (int32_t)random_between(random, BNNCC_STEP_ADD, BNNCC_STEP_WINDOW_SUM);
        if (made->kinds[i] == BNNCC_STEP_RESIDUAL && residual)
            made->kinds[i] = BNNCC_STEP_PRELU;
        residual |= made->kinds[i] == BNNCC_STEP_RESIDUAL;
    }
    for (size_t i = 0; i < count * values; i++)
        made->operands[i] = random_float(random) * 2;
    made->steps =
        (bnncc_steps){.kinds = made->kinds, .count = count, .operands = made->operands, .operand_count = values};
    if (!bits)
        return;
    made->threshold = must_allocate((size_t)channels * sizeof(float));
    made->direction = must_allocate((size_t)channels);
    for (int64_t i = 0; i < channels; i++) {
        made->threshold[i] = random_one_in(random, 4) ? 0 : random_float(random) * 3;
        made->direction[i] = random_one_in(random, 2) ? 1 : -1;
    }
    made->steps.threshold = made->threshold;
    made->steps.threshold_count = random_one_in(random, 3) ? 1 : (size_t)channels;
    made->steps.direction = made->direction;
    made->steps.direction_count = random_one_in(random, 3) ? 1 : (size_t)channels;
    made->steps.nan_bit = random_one_in(random, 2);
}

static inline void free_steps(random_steps *made) {
    free(made->operands);
    free(made->threshold);
    free(made->direction);
}

static inline bool has_step(const bnncc_steps *steps, bnncc_step kind) {
    for (size_t i = 0; steps && i < steps->count; i++)
        if (steps->kinds[i] == (int32_t)kind)
            return true;
    return false;
}

static inline bool adds_residual(const bnncc_steps *steps) { return has_step(steps, BNNCC_STEP_RESIDUAL); }

/* Floats to add, NaN and infinities among them. */
static inline float *random_residual(random_state *random, size_t count) {
    float *residual = must_allocate(count * sizeof *residual);
    for (size_t i = 0; i < count; i++)
        residual[i] = random_one_in(random, 50) ? random_one_in(random, 2) ? NAN : -INFINITY : random_float(random) * 4;
    return residual;
}

/* The definition. volatile: each step is rounded to float32, however this file is compiled. */
static inline float expected_steps(const bnncc_steps *steps, int64_t channel, float y, float residual,
                                   float window_sum) {
    volatile float value = y, term;
    for (size_t i = 0; i < steps->count; i++) {
        const float operand =
            steps->operands[i * steps->operand_count + (steps->operand_count == 1 ? 0 : (size_t)channel)];
        switch (steps->kinds[i]) {
        case BNNCC_STEP_ADD:
            value = value + operand;
            break;
        case BNNCC_STEP_MULTIPLY:
            value = value * operand;
            break;
        case BNNCC_STEP_RESIDUAL:
            value = value + residual;
            break;
        case BNNCC_STEP_PRELU:
            if (value < 0)
                value = value * operand;
            break;
        case BNNCC_STEP_MAXIMUM:
            if (value < operand)
                value = operand;
            break;
        case BNNCC_STEP_MINIMUM:
            if (value > operand)
                value = operand;
            break;
        default:
            term = operand * window_sum;
            value = value + term;
        }
    }
    return value;
}

static inline bool expected_sign(const bnncc_steps *steps, int64_t channel, float y) {
    const float threshold = steps->threshold[steps->threshold_count == 1 ? 0 : channel];
    if (isnan(y))
        return steps->nan_bit;
    return steps->direction[steps->direction_count == 1 ? 0 : channel] > 0 ? y >= threshold : y <= threshold;
}

static inline bool same_float(float a, float b) { return a == b || (isnan(a) && isnan(b)); }

#endif /* BNNCC_TESTS_RANDOM_STEPS_H */
