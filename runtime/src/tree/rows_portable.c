/* Row kernel in plain C: the definition that the others repeat. */
#include "../signs.h"
#include "rows.h"

#define TARGET
enum { STEP = 1 };
typedef uint64_t vector;

static inline vector load(const uint64_t *from) { return *from; }
static inline void store(uint64_t *to, vector a) { *to = a; }
static inline vector zero(void) { return 0; }
static inline vector and_(vector a, vector b) { return a & b; }
static inline vector or_(vector a, vector b) { return a | b; }
static inline vector xor_(vector a, vector b) { return a ^ b; }
static inline vector and_not(vector a, vector b) { return a & ~b; }
static inline vector not_or(vector a, vector b) { return ~(a | b); }
static inline vector add_ones(vector counter, vector a) { return counter + popcount(a); }
static inline uint64_t total(vector counter) { return counter; }
static inline bool is_zero(vector a) { return a == 0; }

#include "rows_loops.h"

const row_kernel rows_portable = {.distances = distances, .combine = combine, .edge = edge};
