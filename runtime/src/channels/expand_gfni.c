/* From counters of filters to numbers with AVX-512BW and GFNI. */
#include "steps.h"

#if defined(__x86_64__)
#define BYTES_BY_GFNI
#define NUMBERS_512 channels_numbers_512_gfni
#define NUMBERS_256 channels_numbers_256_gfni
#include "expand_avx512.h"
#endif
