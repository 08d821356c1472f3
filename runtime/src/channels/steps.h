/* The steps of the channel kernel that each instruction set has its own form of. */
#ifndef BNNCC_CHANNELS_STEPS_H
#define BNNCC_CHANNELS_STEPS_H

#include "channels.h"
#include "checked.h"
#include "dot/dot.h"
#include "signs.h"

/* Windows are counted in pairs, neighbours of a row: a list of planes is in three parts, those that both windows count
 * and those that only one of them does. */
enum { LIST_BOTH, LIST_FIRST, LIST_SECOND, LIST_PARTS };
/* Lists are written so many numbers at a time, the last ones of which may be beyond a part's end. */
enum { LIST_STEP = 64 };

/* Where two input pixels differ from the reference. */
typedef struct channels_list {
    uint16_t sizes[LIST_PARTS];
    uint16_t planes[]; /* the parts, one after the other: numbers of planes in a tap, in eighths of their offset */
} channels_list;

/* What a list takes, of at most so many channels. */
static inline size_t channels_list_bytes(size_t channels) {
    return sizeof(channels_list) + (channels + LIST_STEP) * sizeof(uint16_t);
}

/* Makes the list of two pixels: offsets[i] of all channels i at which only the first, only the second, or both of them
 * differ from the reference (bit i % 64 of word i / 64 each). Bits beyond the channels are the same in all three; there
 * are offsets, and room in the list, for LIST_STEP more. */
typedef void channels_list_function(const uint64_t *first, const uint64_t *second, const uint64_t *reference,
                                    const uint16_t *offsets, size_t channels, channels_list *list);

/* Pixels of a map, [rows][row_pitch][words], of which `width` in each row are used; words up to a multiple of 8 may be
 * read from any of them. */
typedef struct channels_pixels {
    const uint64_t *pixels;
    size_t rows, width, row_pitch, words;
} channels_pixels;

/* reference[words]: the bits that most pixels, or most of 63 of them, have set. */
typedef void channels_majority_function(const channels_pixels *map, uint64_t *reference);

/* Joins the lists of some taps, tap_step being added to the numbers for each tap after the first. ends: where each part
 * is to begin, and then where it ends; there is room for LIST_STEP more. */
typedef void channels_join_function(const channels_list *const *lists, size_t taps, size_t tap_step, uint16_t **ends);

/* A pair of windows, and one block of filters. Counters are planes, the lowest bit first; they count modulo
 * 2^(1 + counters). */
typedef struct channels_pair {
    const uint8_t *weights;            /* of the block, from the first tap on */
    const uint16_t *lists[LIST_PARTS]; /* filled up to units with 0, the plane of zeros */
    size_t units[LIST_PARTS];          /* of 16; those after the first are both filled to the larger of the two */
    int counters;
    const uint8_t *start[2]; /* [1 + counters] vectors: what is counted starts there; NULL for no second window ... */
    uint8_t *to[2];          /* ... and comes here: start + 2 * count, or NULL */
    uint8_t *signs[2];       /* one vector of start + 2 * count + `add` >= 0, in two's complement; or NULL */
    int32_t add[2];
} channels_pair;

typedef void channels_count_function(const channels_pair *pair);

/* sum += addend, both [planes] vectors. */
typedef void channels_add_function(const uint8_t *addend, size_t planes, uint8_t *sum);

/* words[w][i] = word w of vector i, of all vectors i < count, a multiple of 8. */
typedef void channels_split_function(const uint8_t *vectors, size_t count, uint64_t (*words)[64]);

/* The counters of up to DOT_TILE pixels. */
typedef struct channels_expansion {
    const uint8_t *counters; /* of the first pixel: vectors */
    size_t pixel_bytes, planes, pixels;
    const int32_t *add, *inside; /* [pixels] */
} channels_expansion;

/* As numbers, (counters + add[pixel]) mod 2^planes, none of which has more than 16 bits: as many as there are lanes
 * for each pixel, in an order that channels_turn_function knows. numbers: room for
 * DOT_TILE pixels, since that reads those of pixels beyond the last, too. */
typedef void channels_numbers_function(const channels_expansion *expansion, uint16_t *numbers);

/* What becomes of the numbers of some filters, whose values begin here: y = dot * scale + shift, the product rounded
 * before the sum, and, where there are thresholds, the bits of dot >= threshold, dot being 2 number - inside[pixel]. */
typedef struct channels_floats {
    size_t first, count; /* filters of the block: from a multiple of 64 on, 64 at most */
    const float *scale, *shift;
    float *y;
    size_t y_step;            /* from one filter to the next */
    const int32_t *threshold; /* or NULL */
    uint64_t *signs;          /* a word per filter, where there are thresholds */
} channels_floats;

typedef void channels_turn_function(const channels_expansion *expansion, const uint16_t *numbers,
                                    const channels_floats *to);

typedef struct channels_steps {
    size_t lane_bytes;
    channels_majority_function *majority;
    channels_list_function *list;
    channels_join_function *join;
    channels_count_function *count;
    channels_add_function *add;
    channels_numbers_function *numbers;
    channels_turn_function *turn;
    channels_split_function *split;
} channels_steps;

enum { MOST_LANE_WORDS = 8 };

static inline void channels_split(const uint8_t *vectors, size_t lane_words, size_t count, uint64_t (*words)[64]) {
    for (size_t i = 0; i < count; i++, vectors += 8 * lane_words)
        for (size_t w = 0; w < lane_words; w++)
            words[w][i] = load_word(vectors + 8 * w, 8);
}

typedef uint64_t channels_words __attribute__((vector_size(64)));

/* Vertical counters of six planes, of 512 channels at a time, begin where their highest plane comes to tell. */
__attribute__((always_inline)) static inline void channels_find_majority(const channels_pixels *map,
                                                                         uint64_t *reference) {
    const size_t pixels = map->rows * map->width, step = divide_up(pixels, 63), words = map->words;
    const size_t count = step ? divide_up(pixels, step) : 0;
    for (size_t first = 0; first < words; first += 8) {
        const size_t some = smaller(words - first, 8);
        channels_words planes[6], carry = {0};
        for (size_t k = 0; k < 6; k++)
            planes[k] = carry - ((31 - count / 2) >> k & 1);
        size_t row = 0, column = 0;
        for (size_t i = 0; i < count; i++) {
            memcpy(&carry, map->pixels + (row * map->row_pitch + column) * words + first, sizeof carry);
#pragma GCC unroll 6
            for (size_t k = 0; k < 6; k++) {
                const channels_words both = planes[k] & carry;
                planes[k] ^= carry;
                carry = both;
            }
            for (column += step; column >= map->width; column -= map->width)
                row++;
        }
        memcpy(reference + first, &planes[5], some * sizeof *reference);
    }
}

/* The plain form of channels_turn_function, for numbers [pixel][lane]. */
__attribute__((always_inline)) static inline void
channels_turn(const channels_expansion *expansion, const uint16_t *numbers, size_t lanes, const channels_floats *to) {
    for (size_t f = 0; f < to->count; f++) {
        uint64_t signs = 0;
        for (size_t i = 0; i < expansion->pixels; i++) {
            const int32_t dot = 2 * (int32_t)numbers[i * lanes + to->first + f] - expansion->inside[i];
            const float product = (float)dot * to->scale[f];
            to->y[f * to->y_step + i] = product + to->shift[f];
            signs |= (uint64_t)(to->threshold && dot >= to->threshold[f]) << i;
        }
        if (to->threshold)
            to->signs[f] = signs;
    }
}

extern const channels_steps channels_portable;
channels_majority_function channels_majority_portable;
channels_list_function channels_list_portable;
channels_join_function channels_join_portable;
#if defined(__x86_64__)
extern const channels_steps channels_avx2, channels_avx512vl, channels_avx512;
extern const channels_steps channels_avx512vl_bytes, channels_avx512_bytes; /* with VBMI2 and GFNI */
channels_majority_function channels_majority_avx512;
channels_list_function channels_list_avx512, channels_list_vbmi2;
channels_join_function channels_join_avx512;
channels_numbers_function channels_numbers_512_avx512, channels_numbers_256_avx512; /* for so many filters */
channels_numbers_function channels_numbers_512_gfni, channels_numbers_256_gfni;
channels_turn_function channels_turn_512_avx512, channels_turn_256_avx512;
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
