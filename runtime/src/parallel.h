/* Spreads work over the caller's threads. */
#ifndef BNNCC_PARALLEL_H
#define BNNCC_PARALLEL_H

#include "bnncc.h"

/* Does part of the work: items [begin, end). */
typedef void parallel_work(void *argument, size_t begin, size_t end);

/* How many threads there are to share work: 1 without any, a guess where that is not known. */
size_t parallel_threads(const bnncc_parallel *parallel);

/* How many contiguous ranges `count` items are cut into, each item being about `cost` steps of a few cycles: 1 without
 * threads; else few enough that handing one out (some microseconds) is small beside its work. */
size_t parallel_pieces(const bnncc_parallel *parallel, size_t count, size_t cost);

/* Calls work so that each of `count` items falls in exactly one range, and returns when all are done. */
void parallel_ranges(const bnncc_parallel *parallel, size_t count, size_t cost, parallel_work *work, void *argument);

/* The same for a caller who has something (scratch memory) ready for each piece: work(argument, piece, begin, end). */
typedef void parallel_piece(void *argument, size_t piece, size_t begin, size_t end);
void parallel_run(const bnncc_parallel *parallel, size_t count, size_t pieces, parallel_piece *work, void *argument);

#endif /* BNNCC_PARALLEL_H */
