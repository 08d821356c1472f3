/* The bit-plane kernel's counting loop on 256-bit vectors (AVX2). */
#include "program.h"

#if defined(__x86_64__)
#include "vector_avx2.h"

#define COUNT_FUNCTION planes_count_avx2
#include "count.h"
#endif
