/* The channel kernel's steps for AVX-512 with blocks of 256 filters, for layers that have no more. */
#include "steps.h"

#if defined(__x86_64__)
#include "planes/vector_avx512vl.h"

#include "count.h"

const channels_steps channels_avx512vl = {32,  channels_list_avx512,  channels_append_avx512, count,
                                          add, channels_expand_avx512};
#endif
