/* The channel kernel's steps in plain C: blocks of 64 filters. What the other instruction sets do is defined here. */
#include "planes/vector_portable.h"

#include "signs.h"
#include "steps.h"

#include "count.h"

void channels_majority_portable(const channels_pixels *map, uint64_t *reference) {
    channels_find_majority(map, reference);
}

void channels_list_portable(const uint64_t *first, const uint64_t *second, const uint64_t *reference,
                            const uint16_t *offsets, size_t channels, channels_list *list) {
    uint16_t *to = list->planes;
    for (size_t part = 0; part < LIST_PARTS; part++) {
        const uint16_t *begin = to;
        for (size_t word = 0; word < sign_words(channels); word++) {
            const uint64_t a = first[word] ^ reference[word], b = second[word] ^ reference[word];
            uint64_t bits = part == LIST_BOTH ? a & b : part == LIST_FIRST ? a & ~b : b & ~a;
            for (; bits; bits &= bits - 1)
                *to++ = offsets[64 * word + (size_t)__builtin_ctzll(bits)];
        }
        list->sizes[part] = (uint16_t)(to - begin);
    }
}

void channels_join_portable(const channels_list *const *lists, size_t taps, size_t tap_step, uint16_t **ends) {
    for (size_t tap = 0; tap < taps; tap++) {
        const uint16_t *from = lists[tap]->planes, step = (uint16_t)(tap * tap_step);
        for (size_t part = 0; part < LIST_PARTS; part++) {
            const size_t size = lists[tap]->sizes[part];
            uint16_t *restrict to = ends[part];
            for (size_t i = 0; i < size; i += 8) /* beyond the part's end, where the next one begins */
                for (size_t j = i; j < i + 8; j++)
                    to[j] = (uint16_t)(from[j] + step);
            ends[part] += size;
            from += size;
        }
    }
}

/* [pixel][filter]. */
static void numbers(const channels_expansion *expansion, uint16_t *numbers) {
    const uint32_t mask = (uint32_t)low_bits(expansion->planes);
    for (size_t pixel = 0; pixel < expansion->pixels; pixel++, numbers += 64) {
        const uint8_t *from = expansion->counters + pixel * expansion->pixel_bytes;
        uint32_t values[64] = {0};
        for (size_t k = 0; k < expansion->planes; k++) {
            const uint64_t plane = load_word(from + k * 8, 8);
            for (size_t filter = 0; filter < 64; filter++)
                values[filter] |= (uint32_t)(plane >> filter & 1) << k;
        }
        for (size_t filter = 0; filter < 64; filter++)
            numbers[filter] = (uint16_t)((values[filter] + (uint32_t)expansion->add[pixel]) & mask);
    }
}

static void turn(const channels_expansion *expansion, const uint16_t *numbers, const channels_floats *to) {
    channels_turn(expansion, numbers, 64, to);
}

static void split(const uint8_t *vectors, size_t count, uint64_t (*words)[64]) {
    channels_split(vectors, 1, count, words);
}

const channels_steps channels_portable = {
    8, channels_majority_portable, channels_list_portable, channels_join_portable, count, add, numbers, turn, split,
};
