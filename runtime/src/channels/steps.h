/* The steps of the channel kernel that each instruction set has its own form of. */
#ifndef BNNCC_CHANNELS_STEPS_H
#define BNNCC_CHANNELS_STEPS_H

#include "channels.h"
#include "dot/dot.h"

/* Lists are written so many elements at a time, the last ones of which may be beyond the list's end. */
enum { LIST_STEP = 16 };

/* offsets[i] of all i < `channels` at which differing (bit i % 64 of word i / 64) is 1, in order; returns how many.
 * Bits beyond the channels are 0; there are offsets, and room in the list, for LIST_STEP more. */
typedef size_t channels_list_function(const uint64_t *differing, const uint32_t *offsets, size_t channels,
                                      uint32_t *list);

/* to[i] = from[i] + offset of all i < count; there is room for LIST_STEP more in both. */
typedef void channels_append_function(const uint32_t *from, size_t count, uint32_t offset, uint32_t *to);

/* One window, or list of planes, and one block of filters. Counters are planes, the lowest bit first; they count modulo
 * 2^(1 + counters). */
typedef struct channels_count {
    const uint8_t *weights; /* of the block */
    const uint32_t *list;   /* offsets of planes, in bytes, filled up to 16s with the plane of zeros, 0 */
    size_t units;           /* of 16 */
    int counters;
    const uint8_t *start; /* [1 + counters] vectors: what is counted starts there ... */
    uint8_t *to;          /* ... and comes here: start + 2 * count, or NULL */
    uint8_t *signs;       /* one vector of start + 2 * count + `add` >= 0, in two's complement; or NULL */
    int32_t add;
} channels_count;

typedef void channels_count_function(const channels_count *window);

/* sum += addend, both [planes] vectors. */
typedef void channels_add_function(const uint8_t *addend, size_t planes, uint8_t *sum);

/* The counters of up to 64 pixels, and 64 of their filters, as dot products: dots[filter][pixel] is
 * 2 ((counters + add[pixel]) mod 2^planes) - inside[pixel].
 * from: a word of the first pixel's lowest plane; those of the other planes, and pixels, are each so many bytes away.
 */
typedef struct channels_expansion {
    const uint8_t *from;
    size_t plane_bytes, pixel_bytes, planes, pixels;
    const int32_t *add, *inside; /* room for 64 pixels */
    int32_t (*dots)[DOT_TILE];   /* [64]; those of pixels beyond, up to a multiple of 16, may be written too */
} channels_expansion;

typedef void channels_expand_function(const channels_expansion *expansion);

typedef struct channels_steps {
    size_t lane_bytes;
    channels_list_function *list;
    channels_append_function *append;
    channels_count_function *count;
    channels_add_function *add;
    channels_expand_function *expand;
} channels_steps;

extern const channels_steps channels_portable;
channels_list_function channels_list_portable;
channels_append_function channels_append_portable;
#if defined(__x86_64__)
extern const channels_steps channels_avx2, channels_avx512vl, channels_avx512;
channels_list_function channels_list_avx512;
channels_append_function channels_append_avx512;
channels_expand_function channels_expand_avx512;
#endif

/* Those for a layer with so many filters in a group; `isa`: one that bnncc_isa_resolve gave. */
const channels_steps *channels_steps_for(bnncc_isa isa, size_t filters);

typedef struct channels_tap {
    int64_t row, column;
} channels_tap;

/* The taps [begin, end) of a kernel's row that are inside. */
typedef struct channels_column {
    int64_t begin, end;
} channels_column;

/* What a convolution has beside its plan. */
struct channels_conv {
    channels_plan plan;
    const channels_steps *steps;
    const epilogue *epilogue;
    uint8_t *weights; /* [group][block][block_bytes] */
    /* For a layer that gives bits only. A dot product is at least the threshold where (dot + V) / 2 >= bound, and the
     * bound depends on V, the inputs inside the image: on how many taps are. */
    uint8_t *bounds;          /* [group][taps inside][block][1 + counters] vectors */
    size_t bound_rows;        /* numbers of taps inside that there are bounds for: 1 (all) or 1 + taps */
    channels_tap *tap_places; /* [taps] */
    /* Output columns whose windows the image's edges cut alike are a class. */
    uint32_t *column_class;   /* [out_width] */
    channels_column *columns; /* [column_classes] */
    size_t column_classes;
};

#endif /* BNNCC_CHANNELS_STEPS_H */
