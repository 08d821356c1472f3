/* How fast this machine can count bits in planes at best: full adders of the counting kernel, on registers alone.
 *
 * Compiled once for each instruction set, with COUNT_SOURCE the kernel's own source file, whose full_add and vector
 * type V are used here. Each plane that is counted takes one full adder. */
#include COUNT_SOURCE

#define OPAQUE(v) __asm__ volatile("" : "+x"(v)) /* the compiler may assume nothing about v */
#define ADD(i)                                                                                                         \
    do {                                                                                                               \
        full_add(a##i, b##i, c, 0, 0, 0);                                                                              \
        OPAQUE(a##i);                                                                                                  \
        OPAQUE(b##i);                                                                                                  \
    } while (0);

#define TEN_TIMES(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9)
#define DECLARE_BITS(i) V a##i = {0}, b##i = {0};

/* Makes 10 * rounds full adders, ten at a time that do not wait for one another. */
TARGET void add_on_registers(size_t rounds) {
    TEN_TIMES(DECLARE_BITS)
    V c = {0};
    OPAQUE(c);
    for (size_t i = 0; i < rounds; i++) {
        TEN_TIMES(ADD)
    }
}

size_t lane_bytes(void) { return sizeof(V); }
