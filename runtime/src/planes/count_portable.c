/* The bit-plane kernel's counting loop on 64-bit words: what the other instruction sets do, in plain C. */
#include "program.h"

#include "vector_portable.h"

#define COUNT_FUNCTION planes_count_portable
#include "count.h"
