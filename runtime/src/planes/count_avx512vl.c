/* The bit-plane kernel's counting loop on 256-bit vectors with AVX-512's three-input logic (AVX-512VL), for maps that
 * do not fill 512 bits. */
#include "program.h"

#if defined(__x86_64__)
#include "vector_avx512vl.h"

#define COUNT_FUNCTION planes_count_avx512vl
#include "count.h"
#endif
