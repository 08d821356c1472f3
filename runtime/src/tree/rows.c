/* The row kernel of an instruction set, and packed signs to rows. */
#include "rows.h"
#include "../checked.h"
#include "../signs.h"

const row_kernel *row_kernel_for(bnncc_isa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case BNNCC_ISA_AVX2:
        return &rows_avx2;
    case BNNCC_ISA_AVX512BW:
        return &rows_avx512bw;
    case BNNCC_ISA_AVX512VPOPCNTDQ:
        return &rows_avx512vpopcntdq;
#endif
    default:
        return &rows_portable;
    }
}

void rows_load(const uint8_t *bits, size_t count, size_t length, uint64_t *rows, size_t words, size_t stride) {
    const size_t bytes = sign_bytes(length), used = sign_words(length);
    for (size_t row = 0; row < count; row++) {
        const uint8_t *from = bits + row * bytes;
        uint64_t *to = rows + row * stride;
        memset(to, 0, words * sizeof *to);
        for (size_t word = 0; word < used; word++)
            to[word] = load_word(from + 8 * word, smaller(bytes - 8 * word, 8));
        if (used)
            to[used - 1] &= low_bits(length - 64 * (used - 1));
    }
}
