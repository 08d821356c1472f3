/* The bit-plane kernel's counting loop on 512-bit vectors (AVX-512F). */
#include "program.h"

#if defined(__x86_64__)
#include "vector_avx512.h"

#define COUNT_FUNCTION planes_count_avx512
#include "count.h"
#endif
