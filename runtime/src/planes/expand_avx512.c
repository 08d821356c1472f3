/* From vertical counters to floats with AVX-512BW. */
#include "program.h"

#if defined(__x86_64__)
#define EXPAND_FUNCTION planes_expand_avx512
#include "expand_avx512.h"
#endif
