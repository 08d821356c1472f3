/* Packed signs as 64-bit words: loading, storing, moving bits, and turning planes into pixel-major words. */
#ifndef BNNCC_SIGNS_H
#define BNNCC_SIGNS_H

#include "bnncc.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes of a packed row of `count` signs, and words of a row in the library's own layouts. */
static inline size_t sign_bytes(size_t count) { return count / 8 + (count % 8 != 0); }
static inline size_t sign_words(size_t count) { return count / 64 + (count % 64 != 0); }

/* Bit i of a packed row. */
static inline int sign_bit(const uint8_t *row, size_t i) { return row[i / 8] >> i % 8 & 1; }

/* A word whose lowest `count` bits are set. */
static inline uint64_t low_bits(size_t count) { return count >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1; }

/* Bytes are little-endian in the packed format: byte i holds bits 8i to 8i + 7 of the word, on every machine. */
static inline uint64_t little_endian(uint64_t word) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap64(word);
#else
    return word;
#endif
}

static inline uint32_t little_endian_half(uint32_t word) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap32(word);
#else
    return word;
#endif
}

/* A word from `bytes` <= 8 bytes; the bits above are 0. Five to seven are two halves that overlap. */
static inline uint64_t load_word(const uint8_t *from, size_t bytes) {
    uint64_t word = 0;
    if (bytes == 8) {
        memcpy(&word, from, 8);
        return little_endian(word);
    }
    if (bytes >= 4) {
        uint32_t low, high;
        memcpy(&low, from, 4);
        memcpy(&high, from + bytes - 4, 4);
        return little_endian_half(low) | (uint64_t)little_endian_half(high) << 8 * (bytes - 4);
    }
    for (size_t i = 0; i < bytes; i++)
        word |= (uint64_t)from[i] << (8 * i);
    return word;
}

static inline void store_word(uint8_t *to, uint64_t word, size_t bytes) {
    if (bytes == 8) {
        word = little_endian(word);
        memcpy(to, &word, 8);
        return;
    }
    if (bytes >= 4) {
        const uint32_t low = little_endian_half((uint32_t)word);
        const uint32_t high = little_endian_half((uint32_t)(word >> 8 * (bytes - 4)));
        memcpy(to, &low, 4);
        memcpy(to + bytes - 4, &high, 4);
        return;
    }
    for (size_t i = 0; i < bytes; i++)
        to[i] = (uint8_t)(word >> (8 * i));
}

/* Number of ones: pairs, nibbles and bytes are summed side by side, then the bytes by one multiplication. Compilers
 * turn it into the CPU's instruction where they may assume one. */
static inline unsigned popcount(uint64_t word) {
    word -= word >> 1 & 0x5555555555555555;
    word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return (unsigned)(word * 0x0101010101010101 >> 56);
}

/* Every second bit, in the lower half. */
static inline uint64_t even_bits(uint64_t word) {
    word &= 0x5555555555555555;
    word = (word | word >> 1) & 0x3333333333333333;
    word = (word | word >> 2) & 0x0f0f0f0f0f0f0f0f;
    word = (word | word >> 4) & 0x00ff00ff00ff00ff;
    word = (word | word >> 8) & 0x0000ffff0000ffff;
    return (word | word >> 16) & 0x00000000ffffffff;
}

/* Writes bits one after the other into words, each word being stored when it is full. */
typedef struct bit_writer {
    uint64_t *to, word; /* the bits not stored yet */
    size_t filled;      /* how many they are, less than 64 */
} bit_writer;

/* Appends the lowest `count` bits, 1 to 64; the bits above must be 0. */
static inline void write_bits(bit_writer *writer, uint64_t bits, size_t count) {
    const size_t filled = writer->filled;
    writer->word |= bits << filled;
    if (filled + count < 64) {
        writer->filled = filled + count;
        return;
    }
    *writer->to++ = writer->word;
    writer->word = filled ? bits >> (64 - filled) : 0; /* the bits that found no room; none where all were free */
    writer->filled = filled + count - 64;
}

/* Stores the last word, the bits after those written being 0. */
static inline void finish_bits(bit_writer *writer) {
    if (writer->filled)
        *writer->to = writer->word;
}

/* Transposes a 64 x 64 matrix of bits: bit c of rows[r] changes places with bit r of rows[c]. Only the first `columns`
 * rows of the result are made; the others are left undefined. */
typedef void transpose_function(uint64_t rows[64], size_t columns);
transpose_function transpose_64x64;
#if defined(__x86_64__)
transpose_function transpose_64x64_avx512;
#endif
/* The one for an instruction set that bnncc_isa_resolve gave. */
transpose_function *transpose_for(bnncc_isa isa);

/* One image row of NCHW planes as pixel-major words.
 * planes: the row in channel 0; the same row of channel c is at planes + c * plane_bytes; readable up to `end`.
 * transpose: see above.
 * pixels: [width][ceil(channels / 64)] words; bit c % 64 of word c / 64 is channel c; unused bits are 0. */
void planes_to_pixels(const uint8_t *planes, size_t plane_bytes, const uint8_t *end, size_t channels, size_t width,
                      transpose_function *transpose, uint64_t *pixels);

#endif /* BNNCC_SIGNS_H */
