/* What the counting loop works through: a tree as a list of planes to add and to subtract, and constants. */
#ifndef BNNCC_PLANES_PROGRAM_H
#define BNNCC_PLANES_PROGRAM_H

#include "planes.h"

/* How a node's counters come from its parent's. Planes to subtract come in units of 16 and in eights, then those to
 * add. In halves, all these numbers are of pairs of planes, and counters are pairs of vectors. */
typedef struct planes_node {
    uint16_t from, to; /* counters: sets of counter_planes vectors */
    uint16_t subtract_16, add_16;
    uint8_t mixed_16; /* 1: between them, a unit of eight to subtract and eight to add */
    uint8_t tail;     /* after them, eight planes to add (1) or to subtract (2), or none (0) */
    uint8_t keep;     /* 0: no child needs the counters */
    int32_t output;   /* channel within the group; -1: none (a virtual filter) */
} planes_node;

/* One group's tree. Indices are eighths of a plane's offset in bytes. */
typedef struct planes_program {
    planes_node *nodes;
    size_t node_count;
    uint16_t *index;
    uint16_t *window; /* all of the window's planes, filled up to such units of 16 with the plane of zeros */
    size_t window_16;
    int counter_planes;
    size_t counter_sets;
    size_t constant_words; /* per channel: its constants are [column word][1 + counter_planes] */
} planes_program;

/* One vector of output pixels of one group. */
typedef struct planes_block {
    const planes_program *program;
    const uint8_t *planes;
    uint8_t *parity;   /* one vector, in the place of one counter just before the counters */
    uint8_t *counters; /* [counter_sets][counter_planes] vectors, or pairs of them; set 0 is the root's */
    const uint64_t *constants;
    size_t mask_count;        /* classes of rows beside that of `constants` */
    const uint8_t *masks;     /* [mask_count] vectors */
    ptrdiff_t mask_class[64]; /* where the class's constants are, in words from `constants` */
    uint8_t *signs;           /* out: one vector per channel, of dot >= threshold */
    size_t signs_pitch;
    bool want_signs;
    uint8_t *counted; /* out, or NULL: [channel][1 + counter_planes] vectors, the parity and then the counters */
} planes_block;

typedef void planes_count_function(const planes_block *block);
planes_count_function planes_count_portable;
#if defined(__x86_64__)
planes_count_function planes_count_avx2, planes_count_avx512_halves, planes_count_avx512;
#endif

/* Lanes of a vector whose pixels follow one another in the output: a slot's, 64 at most. sums and y are those of the
 * block's first channel. */
typedef struct planes_run {
    size_t at, count;
    const float *sums;
    float *y;
} planes_run;

/* The output pixels of some channels in a vector of lanes: y = dot * scale + shift, the product rounded before the sum,
 * with dot = factor * ((counted + add) mod 2^planes) + sums, exactly. */
typedef struct planes_expansion {
    const uint8_t *counted; /* the first channel's lowest plane */
    size_t lane_bytes, planes;
    size_t counted_step, sums_step, y_step; /* from one channel to the next: bytes, elements, elements */
    const uint32_t *add;                    /* [channel] */
    const float *factor, *scale, *shift;    /* [channel] */
    const planes_run *runs;
    size_t run_count;
} planes_expansion;

typedef void planes_expand_function(const planes_expansion *block, size_t channels);
planes_expand_function planes_expand_portable;
#if defined(__x86_64__)
planes_expand_function planes_expand_avx2, planes_expand_avx512, planes_expand_gfni;
#endif

struct planes_conv {
    planes_plan plan;
    const epilogue *epilogue;
    planes_count_function *count;
    planes_expand_function *expand;
    planes_program *programs; /* [group] */
    size_t group_planes;      /* that one vector takes for the filters of a group, on average */
    /* For bits: */
    uint64_t *constants; /* [group][class][segment][channel][1 + counter_planes] */
    size_t group_words, class_words, segment_words;
    /* For float output, see planes_expansion: */
    uint32_t *adds; /* [channel] */
    float *factors; /* [channel] */
    float *sums;    /* [class][channel][output column] */
};

/* Builds the program of one group, and its channels' constants, offsets and sums; false without memory. */
bool planes_program_build(planes_conv *conv, const group_tree *tree, size_t group);
void planes_program_destroy(planes_program *program);

#endif /* BNNCC_PLANES_PROGRAM_H */
