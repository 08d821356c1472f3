/* Working memory of runs, kept from one run to the next. */
#ifndef BNNCC_SCRATCH_H
#define BNNCC_SCRATCH_H

#include <stddef.h>

/* As allocate(), to be given back with scratch_give(). */
void *scratch_take(size_t count, size_t size);
void scratch_give(void *memory); /* or NULL */

/* Frees what is kept, which also happens when the library is unloaded. */
void scratch_free_kept(void);

#endif /* BNNCC_SCRATCH_H */
