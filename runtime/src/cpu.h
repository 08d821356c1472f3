/* What a CPU has beside the instruction sets of the public header. */
#ifndef BNNCC_CPU_H
#define BNNCC_CPU_H

#include <stdbool.h>

/* Permutations of bytes across a 512-bit vector, which some CPUs with AVX-512BW lack. */
bool cpu_has_avx512vbmi(void);
/* Bytes and 16-bit numbers compressed by a mask. */
bool cpu_has_avx512vbmi2(void);
/* Products of 8 x 8 matrices of bits. */
bool cpu_has_gfni(void);

#endif /* BNNCC_CPU_H */
