/* What the C tests share: a seeded generator, packed signs one at a time, and failures that are counted and told. */
#ifndef BNNCC_TESTS_SUPPORT_H
#define BNNCC_TESTS_SUPPORT_H

#include "bnncc.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- Random numbers: xorshift64*, the same on every machine ---- */

typedef struct random_state {
    uint64_t state; /* not 0 */
} random_state;

static inline uint64_t random_bits(random_state *random) {
    random->state ^= random->state >> 12;
    random->state ^= random->state << 25;
    random->state ^= random->state >> 27;
    return random->state * UINT64_C(0x2545f4914f6cdd1d);
}

/* A number in [low, high]. */
static inline int64_t random_between(random_state *random, int64_t low, int64_t high) {
    return low + (int64_t)((random_bits(random) >> 11) % ((uint64_t)(high - low) + 1));
}

static inline bool random_one_in(random_state *random, int64_t n) { return random_between(random, 1, n) == 1; }

static inline float random_float(random_state *random) {
    return (float)((double)(random_bits(random) >> 11) / 4503599627370496.0 - 1.0); /* [-1, 1) */
}

/* ---- Packed signs ---- */

static inline size_t packed_bytes(int64_t count) { return (size_t)((count + 7) / 8); }

/* The sign at a position of a packed row, as 1 or -1. */
static inline int sign_at(const uint8_t *row, int64_t position) {
    return (row[position / 8] >> position % 8 & 1) ? 1 : -1;
}

/* ---- Memory: a test that runs out of it cannot say anything ---- */

static inline void *must_allocate(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) {
        fprintf(stderr, "the test itself is out of memory (%zu bytes)\n", bytes);
        exit(2);
    }
    return memory;
}

static inline uint8_t *random_bytes(random_state *random, size_t count) {
    uint8_t *bytes = must_allocate(count);
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(random_bits(random) >> 32);
    return bytes;
}

/* ---- Failures ---- */

typedef struct tally {
    long checks, failures;
} tally;

/* Counts a check; one that failed is printed with its place (up to a limit, lest the first ones scroll away). */
#define CHECK(tally, condition, ...)                                                                                   \
    do {                                                                                                               \
        (tally)->checks++;                                                                                             \
        if (!(condition) && (tally)->failures++ < 20) {                                                                \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                                     \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
        }                                                                                                              \
    } while (0)

/* Prints the result; the exit status of the test. */
static inline int finish(const tally *tally, const char *name) {
    printf("%s: %ld checks, %ld failed\n", name, tally->checks, tally->failures);
    return tally->failures ? 1 : 0;
}

#endif /* BNNCC_TESTS_SUPPORT_H */
