/* The bit-plane kernel's counting loop on the halves of 512-bit vectors, for maps that do not fill 512 lanes. */
#include "program.h"

#if defined(__x86_64__)
#include "vector_avx512_halves.h"

#define COUNT_FUNCTION planes_count_avx512_halves
#include "count.h"
#endif
