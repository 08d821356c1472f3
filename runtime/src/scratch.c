/* Working memory of runs, kept from one run to the next: the C library may give what is freed back to the system, and
 * the page faults of taking it anew take as long as a layer. What one layer has used is in the cache for the next one,
 * so all layers of a process share a few blocks. */
#include "scratch.h"
#include "checked.h"

#include <stdatomic.h>
#include <stdlib.h>

/* As many blocks are kept as runs have been at the same time, up to MOST_KEPT, none of them larger than LARGEST_KEPT.
 */
enum { MOST_KEPT = 16, LARGEST_KEPT = 16 << 20 };

/* Where reading beyond what a run has asked for is to be noticed, nothing is kept. */
#if defined(__has_feature)
#define KEEPS (!__has_feature(address_sanitizer))
#elif defined(__SANITIZE_ADDRESS__)
#define KEEPS 0
#else
#define KEEPS 1
#endif

/* Memory follows its header, which takes a cache line of its own. */
typedef struct scratch_block {
    _Alignas(64) size_t bytes;
} scratch_block;

static _Atomic(scratch_block *) kept[MOST_KEPT];

void *scratch_take(size_t count, size_t size) {
    bool overflow = false;
    const size_t bytes = times(count, size, &overflow);
    const size_t all = plus(bytes, sizeof(scratch_block), &overflow);
    if (overflow)
        return NULL;
    for (size_t i = 0; i < MOST_KEPT; i++) {
        scratch_block *block = atomic_exchange(&kept[i], NULL);
        if (block && block->bytes >= bytes)
            return block + 1;
        if (block) { /* a larger one takes its place */
            free(block);
            break;
        }
    }
    scratch_block *block = allocate(all, 1);
    if (!block)
        return NULL;
    block->bytes = bytes;
    return block + 1;
}

void scratch_give(void *memory) {
    if (!memory)
        return;
    scratch_block *block = (scratch_block *)memory - 1;
#if KEEPS
    for (size_t i = 0; i < MOST_KEPT && block->bytes <= LARGEST_KEPT; i++) {
        scratch_block *none = NULL;
        if (atomic_compare_exchange_strong(&kept[i], &none, block))
            return;
    }
#endif
    free(block);
}

size_t scratch_reserve(size_t *total, size_t count, size_t size, bool *overflow) {
    const size_t line = 64, begin = *total;
    const size_t lines = plus(times(count, size, overflow), line - 1, overflow) / line;
    *total = plus(begin, times(lines, line, overflow), overflow);
    return begin;
}

__attribute__((destructor)) void scratch_free_kept(void) {
    for (size_t i = 0; i < MOST_KEPT; i++)
        free(atomic_exchange(&kept[i], NULL));
}
