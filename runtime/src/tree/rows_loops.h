/* The loops of a row kernel, over registers of any width.
 *
 * To be included by a file that defines TARGET, `vector` and STEP (its words), and as functions of it: load, store,
 * zero, and_, or_, xor_, and_not (a & ~b), add_ones (a counter plus the ones of a vector), total (of a counter),
 * is_zero. Always inlined, so that each kernel's instructions are its own. */
#include "../checked.h"

TARGET static void distances(const uint64_t *row, const uint64_t *rows, size_t count, size_t words, int32_t *result) {
    for (size_t i = 0; i < count; i++, rows += words) {
        vector ones = zero();
        for (size_t w = 0; w < words; w += STEP)
            ones = add_ones(ones, xor_(load(row + w), load(rows + w)));
        result[i] = (int32_t)total(ones);
    }
}

/* Value 1 alone is left where one set is {1} and the other allows 1; value 0 alone likewise, the high bit being 0. */
#define COMBINE(low, high, a_low, a_high, b_low, b_high)                                                               \
    const vector low = or_(and_(a_low, b_high), and_(b_low, a_high));                                                  \
    const vector high = and_(or_(a_high, b_low), or_(b_high, a_low))

TARGET static bool combine(const uint64_t *a, const uint64_t *b, uint64_t *to, size_t words) {
    vector changed = zero();
    for (size_t w = 0; w < words; w += STEP) {
        const vector a_low = load(a + w), a_high = load(a + words + w);
        const vector b_low = load(b + w), b_high = load(b + words + w);
        COMBINE(low, high, a_low, a_high, b_low, b_high);
        changed = or_(changed, or_(xor_(low, load(to + w)), xor_(high, load(to + words + w))));
        store(to + w, low);
        store(to + words + w, high);
    }
    return !is_zero(changed);
}

TARGET static void edge(const uint64_t *above, const uint64_t *sibling, const uint64_t *down, const uint64_t *joining,
                        uint64_t *up, size_t words, int32_t conflicts[2]) {
    vector as_is = zero(), flipped = zero();
    for (size_t w = 0; w < words; w += STEP) {
        const vector above_low = load(above + w), above_high = load(above + words + w);
        const vector sibling_low = load(sibling + w), sibling_high = load(sibling + words + w);
        const vector down_low = load(down + w), down_high = load(down + words + w);
        const vector joining_low = load(joining + w), joining_high = load(joining + words + w);
        COMBINE(up_low, up_high, above_low, above_high, sibling_low, sibling_high);
        COMBINE(low, high, up_low, up_high, down_low, down_high);
        store(up + w, up_low);
        store(up + words + w, up_high);
        as_is = add_ones(as_is, or_(and_not(low, joining_high), and_not(joining_low, high)));
        flipped = add_ones(flipped, or_(and_(low, joining_low), not_or(joining_high, high)));
    }
    conflicts[0] = (int32_t)total(as_is);
    conflicts[1] = (int32_t)total(flipped);
}
