/* Working memory of runs, kept from one run to the next. */
#ifndef BNNCC_SCRATCH_H
#define BNNCC_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>

/* As allocate(), to be given back with scratch_give(). */
void *scratch_take(size_t count, size_t size);
void scratch_give(void *memory); /* or NULL */

/* Appends a part to what a run needs, on a cache line's boundary; returns where it begins. Sets *overflow (and never
 * clears it) where the sum exceeds size_t. */
size_t scratch_reserve(size_t *total, size_t count, size_t size, bool *overflow);

/* Frees what is kept, which also happens when the library is unloaded. */
void scratch_free_kept(void);

#endif /* BNNCC_SCRATCH_H */
