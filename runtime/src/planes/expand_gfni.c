/* From vertical counters to floats with AVX-512BW and GFNI. */
#include "program.h"

#if defined(__x86_64__)
#define BYTES_BY_GFNI
#define EXPAND_FUNCTION planes_expand_gfni
#include "expand_avx512.h"
#endif
