/* What the vector versions of planes_expand_function share: runs of pixels, cut to registers of floats.
 *
 * A channel's counters become 16-bit numbers of all lanes first. Blocks of 16 lanes are stored where transposing bytes
 * within the 128-bit parts of vectors leaves them: the eight blocks of part p are p, p + parts, p + 2 parts, ... */
#ifndef BNNCC_PLANES_EXPAND_H
#define BNNCC_PLANES_EXPAND_H

#include "checked.h"
#include "program.h"

enum { BLOCK_LANES = 16, MOST_PIECES = 64 }; /* vectors have 512 lanes at most, pieces 8 or more, or a slot to themselves */

/* Pixels of a run that one register takes: the place of their numbers, and the rest as planes_run has it. */
typedef struct planes_piece {
    size_t at, count;
    const float *sums;
    float *y;
} planes_piece;

/* Cuts the runs of a block into pieces of at most `most` pixels, 8 or 16; returns how many. No run crosses into another
 * block of lanes but at `most` pixels from its begin. */
static inline size_t planes_cut_runs(const planes_expansion *block, size_t most, size_t parts,
                                     planes_piece pieces[MOST_PIECES]) {
    size_t count = 0;
    for (const planes_run *run = block->runs; run < block->runs + block->run_count; run++)
        for (size_t i = 0; i < run->count; i += most) {
            const size_t lane = run->at + i, number = lane / BLOCK_LANES;
            pieces[count++] = (planes_piece){.at = (number % 8 * parts + number / 8) * BLOCK_LANES + lane % BLOCK_LANES,
                                             .count = smaller(run->count - i, most),
                                             .sums = run->sums + i,
                                             .y = run->y + i};
        }
    return count;
}

#endif /* BNNCC_PLANES_EXPAND_H */
