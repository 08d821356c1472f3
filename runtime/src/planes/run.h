/* A run of the bit-plane kernel: its sizes, and what its stages know of a sheet. */
#ifndef BNNCC_PLANES_RUN_H
#define BNNCC_PLANES_RUN_H

#include "cpu.h"
#include "program.h"
#include "signs.h"

/* Channels that are prepared at a time, columns of kernels that all but PLACE_WIDE and PLACE_NARROW can prepare, and
 * floats of some channels' vectors that are made at a time, where there are steps. */
enum { PLACE_CHUNK = 16, MOST_COLUMNS = 8, EXPANDED_FLOATS = 2048 };

/* Where a slot's band is. */
typedef struct planes_slot {
    size_t image, segment;
    size_t row; /* the band's first output row */
    /* Of the output: rows, those of them that may be stored with the whole slot, columns, and where the first row is,
     * in bytes from that of the channel of the first image. */
    size_t rows, whole_rows, columns, to;
} planes_slot;

/* A row of the map into a slot: bytes. */
typedef struct planes_move {
    size_t from, to;
} planes_move;

/* What goes from one image's map into one vector of input rows. */
typedef struct planes_permutation {
    _Alignas(64) uint8_t index[64];
    uint64_t mask;
} planes_permutation;

/* Up to 64 bytes of an image's map, from the two vectors of its rows. */
typedef struct planes_packing {
    _Alignas(64) uint8_t index[64];
    _Alignas(64) uint8_t inside[64]; /* the bits of pixels */
    uint64_t mask;
    size_t to; /* as planes_slot has it */
} planes_packing;

/* How a sheet's signs are packed. */
typedef enum planes_packing_way {
    PACK_ROWS,       /* any map: a row at a time */
    PACK_PERMUTED,   /* bands of one or two rows: by permutations of bytes (AVX-512VBMI) */
    PACK_TRANSPOSED, /* slots of 64 pixels: eight rows of eight slots at a time (AVX-512VBMI) */
} planes_packing_way;

/* How a sheet's planes are prepared. */
typedef enum planes_placing {
    PLACE_WIDE,       /* any map: a row and slot at a time */
    PLACE_NARROW,     /* narrow maps: rows are copied, then moved */
    PLACE_GATHERED,   /* the same for slots of 64 pixels, by gathering loads (AVX-512) */
    PLACE_TRANSPOSED, /* the same, eight rows of eight slots at a time (AVX-512VBMI) */
    PLACE_PERMUTED,   /* small maps: by permutations of bytes (AVX-512VBMI) */
} planes_placing;

/* Sizes of one run. */
typedef struct planes_job {
    const planes_conv *conv;
    const uint8_t *x, *x_end;
    steps_inputs inputs;
    float *y;
    uint8_t *bits;
    bool compares_dots; /* the bits are those of dot products; else, where there are any, those of the steps */
    size_t height, out_height;
    size_t rows, input_rows; /* of a band */
    size_t bands, slots;     /* of an image and a segment; of a vector */
    size_t total_slots;      /* images * segments * bands */
    size_t column_bytes;     /* of a channel's planes for one column of the kernel */
    size_t images;           /* that a sheet may have parts of */
    /* How pixels are moved to a column, and where those arrive that stay in their slot. */
    uint64_t rotate[MOST_COLUMNS], keep[MOST_COLUMNS];
    /* Where the parts of a piece's memory are. */
    size_t planes, signs, counters, masks, counted, rows_in, padding_slots, permutations, inside, packings;
    size_t piece_bytes;
    uint8_t *pieces;
} planes_job;

/* The sheet at hand: everything that is the same for all its channels, and memory for one of its groups. */
typedef struct planes_sheet {
    const planes_job *job;
    uint8_t *planes;   /* [1 + channels * columns] times column_bytes: zeros, then the group's planes */
    uint8_t *signs;    /* [channel][rows] vectors, where there are bits */
    uint8_t *counters; /* the parity, the sets of counters, a last carry */
    uint8_t *masks;    /* of classes of rows */
    uint8_t *counted;  /* [channel][1 + counter_planes] vectors, where there are floats */
    planes_placing placing;
    planes_slot band[64];
    size_t used_slots;
    planes_move *rows_in; /* where a row of the map is for a slot */
    size_t rows_in_count, farthest_row;
    size_t *padding_slots; /* where there is none, from the start of the planes */
    size_t padding_count;
    planes_permutation *permutations; /* [image of the sheet][input_rows] */
    size_t permuted_images;
    uint8_t *inside;        /* [input_rows] vectors of 64 bytes: where there are pixels of the map */
    ptrdiff_t slot_rows[8]; /* for slots of 64 pixels: where the first input row of each would be, in bytes */
    planes_packing_way packing;
    planes_packing *packings; /* [packing_count] */
    size_t packing_count;
} planes_sheet;

/* Whether bytes can be permuted across a vector. CPUs with AVX-512BW alone cannot, and so it is where that is forced.
 */
static inline bool planes_permute_bytes(const planes_plan *plan) {
    return plan->isa == BNNCC_ISA_AVX512VPOPCNTDQ && cpu_has_avx512vbmi();
}

/* Chooses how a described sheet's planes are prepared. */
void planes_choose_placing(planes_sheet *sheet);
/* rotate and keep of a job. */
void planes_find_moves(planes_job *job);
/* Prepares the planes of input channels [begin, end), one after the other at `planes`. */
void planes_place(const planes_sheet *sheet, size_t begin, size_t end, uint8_t *planes);

/* Chooses how a described sheet's signs are packed. */
void planes_choose_packing(planes_sheet *sheet);
/* Packs the signs of an output channel (of the first group), [rows] vectors. */
void planes_pack(const planes_sheet *sheet, size_t channel, const uint8_t *signs);

static inline void store_slot(uint8_t *to, uint64_t word, size_t pitch) {
    word = little_endian(word);
    if (pitch == 8)
        memcpy(to, &word, 8);
    else if (pitch == 4)
        memcpy(to, &word, 4);
    else if (pitch == 2)
        memcpy(to, &word, 2);
    else
        memcpy(to, &word, 1);
}

static inline uint64_t load_slot(const uint8_t *from, size_t pitch) {
    uint64_t word = 0;
    if (pitch == 8)
        memcpy(&word, from, 8);
    else if (pitch == 4)
        memcpy(&word, from, 4);
    else if (pitch == 2)
        memcpy(&word, from, 2);
    else
        memcpy(&word, from, 1);
    return little_endian(word);
}

#endif /* BNNCC_PLANES_RUN_H */
