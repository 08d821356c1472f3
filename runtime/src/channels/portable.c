/* The channel kernel's steps in plain C: blocks of 64 filters. What the other instruction sets do is defined here. */
#include "planes/vector_portable.h"

#include "signs.h"
#include "steps.h"

#include "count.h"

size_t channels_list_portable(const uint64_t *differing, const uint32_t *offsets, size_t channels, uint32_t *to) {
    size_t count = 0;
    for (size_t word = 0; word < sign_words(channels); word++)
        for (uint64_t bits = differing[word]; bits; bits &= bits - 1)
            to[count++] = offsets[64 * word + (size_t)__builtin_ctzll(bits)];
    return count;
}

void channels_append_portable(const uint32_t *from, size_t count, uint32_t offset, uint32_t *to) {
    for (size_t i = 0; i < count; i++)
        to[i] = from[i] + offset;
}

static void expand(const channels_expansion *expansion) {
    const uint32_t mask = (uint32_t)low_bits(expansion->planes);
    for (size_t pixel = 0; pixel < expansion->pixels; pixel++) {
        const uint8_t *from = expansion->from + pixel * expansion->pixel_bytes;
        uint32_t values[64] = {0};
        for (size_t k = 0; k < expansion->planes; k++) {
            const uint64_t plane = load_word(from + k * expansion->plane_bytes, 8);
            for (size_t filter = 0; filter < 64; filter++)
                values[filter] |= (uint32_t)(plane >> filter & 1) << k;
        }
        for (size_t filter = 0; filter < 64; filter++)
            expansion->dots[filter][pixel] =
                2 * (int32_t)((values[filter] + (uint32_t)expansion->add[pixel]) & mask) - expansion->inside[pixel];
    }
}

const channels_steps channels_portable = {8, channels_list_portable, channels_append_portable, count, add, expand};
