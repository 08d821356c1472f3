/* The counting loop of the bit-plane kernel, for any vector type: to be included by one file per instruction set.
 *
 * The includer defines
 *     TARGET                  function attributes
 *     V                       the vector type, one bit per output pixel
 *     load(p), store(p, v)    aligned
 *     spread(p)               the 64-bit word at p in all lanes
 *     invert(v), xor2, and2(a, b), xor3, majority(a, b, c), select(mask, a, b)
 *     full_add(a, b, c, na, nb, nc)  a := a ^ b ^ c; b := majority of a, b, c, of which a, b, c are inverted first
 * where na, nb, nc (constants) are 1 plane(p, n)             load, inverted where n (a constant) is 1 unless full_add
 * sees to it
 *
 * A node's planes come in groups of eight: those to subtract, then those to add. To subtract a plane s from counters is
 * to add ~s, since -s = ~s - 1 for a bit s, and to remember that one must be taken off: program.c keeps that in
 * the node's constants. Two groups make a unit of 16, whose adders form a tree so that few of them wait for another. */

/* Adds x, of weight 2^k, to the counters from c_k on. */
#define HALF(k, c)                                                                                                     \
    if (L > (k)) {                                                                                                     \
        const V sum_ = xor2(c, x_);                                                                                    \
        x_ = and2(c, x_);                                                                                              \
        c = sum_;                                                                                                      \
    }
#define RIPPLE_FROM_6                                                                                                  \
    HALF(6, c6)                                                                                                        \
    HALF(7, c7)                                                                                                        \
    HALF(8, c8) HALF(9, c9) HALF(10, c10) HALF(11, c11) HALF(12, c12) HALF(13, c13) HALF(14, c14) HALF(15, c15)

#define INDEX(k) ((k) % 4 == 3 ? words_[(k) / 4] >> 48 : (uint64_t)(uint16_t)(words_[(k) / 4] >> (k) % 4 * 16))
#define PLANE(k, n) plane(base + 8 * INDEX(k), n)

/* Sixteen planes, the first eight inverted where N0 is 1, the others where N1 is: the carry of weight 16 goes to `out`.
 */
#define UNIT_16(N0, N1, out)                                                                                           \
    do {                                                                                                               \
        uint64_t words_[4];                                                                                            \
        memcpy(words_, index, sizeof words_);                                                                          \
        index += 16;                                                                                                   \
        V s0 = PLANE(0, N0), h0 = PLANE(1, N0), z_ = PLANE(2, N0);                                                     \
        full_add(s0, h0, z_, N0, N0, N0);                                                                              \
        V s1 = PLANE(3, N0), h1 = PLANE(4, N0);                                                                        \
        z_ = PLANE(5, N0);                                                                                             \
        full_add(s1, h1, z_, N0, N0, N0);                                                                              \
        V h2 = PLANE(6, N0);                                                                                           \
        full_add(s0, h2, s1, N0, N0, N0);                                                                              \
        full_add(h0, h1, h2, 0, 0, 0);                                                                                 \
        V s2 = PLANE(8, N1), h3 = PLANE(9, N1);                                                                        \
        z_ = PLANE(10, N1);                                                                                            \
        full_add(s2, h3, z_, N1, N1, N1);                                                                              \
        V s3 = PLANE(11, N1), h4 = PLANE(12, N1);                                                                      \
        z_ = PLANE(13, N1);                                                                                            \
        full_add(s3, h4, z_, N1, N1, N1);                                                                              \
        V h5 = PLANE(14, N1);                                                                                          \
        full_add(s2, h5, s3, N1, N1, N1);                                                                              \
        full_add(h3, h4, h5, 0, 0, 0);                                                                                 \
        V h6 = PLANE(7, N0);                                                                                           \
        full_add(s0, h6, s2, N0, N0, N1);                                                                              \
        V h7 = PLANE(15, N1);                                                                                          \
        full_add(s0, h7, c0, N1, N1, 0);                                                                               \
        c0 = s0;                                                                                                       \
        full_add(h0, h3, h6, 0, 0, 0);                                                                                 \
        full_add(h0, h7, c1, 0, 0, 0);                                                                                 \
        c1 = h0;                                                                                                       \
        full_add(h1, h4, h3, 0, 0, 0);                                                                                 \
        full_add(h1, h7, c2, 0, 0, 0);                                                                                 \
        c2 = h1;                                                                                                       \
        full_add(h4, h7, c3, 0, 0, 0);                                                                                 \
        c3 = h4;                                                                                                       \
        (out) = h7;                                                                                                    \
    } while (0)

#define UNIT_8(N, out)                                                                                                 \
    do {                                                                                                               \
        uint64_t words_[2];                                                                                            \
        memcpy(words_, index, sizeof words_);                                                                          \
        index += 8;                                                                                                    \
        V s0 = PLANE(0, N), h0 = PLANE(1, N), z_ = PLANE(2, N);                                                        \
        full_add(s0, h0, z_, N, N, N);                                                                                 \
        V s1 = PLANE(3, N), h1 = PLANE(4, N);                                                                          \
        z_ = PLANE(5, N);                                                                                              \
        full_add(s1, h1, z_, N, N, N);                                                                                 \
        V h2 = PLANE(6, N);                                                                                            \
        full_add(s0, h2, s1, N, N, N);                                                                                 \
        full_add(h0, h1, h2, 0, 0, 0);                                                                                 \
        V h3 = PLANE(7, N);                                                                                            \
        full_add(s0, h3, c0, N, N, 0);                                                                                 \
        c0 = s0;                                                                                                       \
        full_add(h0, h3, c1, 0, 0, 0);                                                                                 \
        c1 = h0;                                                                                                       \
        full_add(h1, h3, c2, 0, 0, 0);                                                                                 \
        c2 = h1;                                                                                                       \
        (out) = and2(c3, h3);                                                                                          \
        c3 = xor2(c3, h3);                                                                                             \
    } while (0)

/* Carries of weight 16 wait for a second one, and those two make of weight 32 for a second one. */
#define CARRY_16(x)                                                                                                    \
    do {                                                                                                               \
        if (waiting & 1) {                                                                                             \
            full_add(c4, wait16, x, 0, 0, 0);                                                                          \
            if (waiting & 2) {                                                                                         \
                full_add(c5, wait32, wait16, 0, 0, 0);                                                                 \
                V x_ = wait32;                                                                                         \
                RIPPLE_FROM_6                                                                                          \
            } else {                                                                                                   \
                wait32 = wait16;                                                                                       \
            }                                                                                                          \
        } else {                                                                                                       \
            wait16 = x;                                                                                                \
        }                                                                                                              \
        waiting++;                                                                                                     \
    } while (0)

#define FOR_COUNTERS(DO)                                                                                               \
    DO(0, c0)                                                                                                          \
    DO(1, c1)                                                                                                          \
    DO(2, c2)                                                                                                          \
    DO(3, c3)                                                                                                          \
    DO(4, c4)                                                                                                          \
    DO(5, c5)                                                                                                          \
    DO(6, c6) DO(7, c7) DO(8, c8) DO(9, c9) DO(10, c10) DO(11, c11) DO(12, c12) DO(13, c13) DO(14, c14) DO(15, c15)
#define DECLARE(k, c) V c = {0};
#define LOAD_COUNTER(k, c)                                                                                             \
    if (L > (k))                                                                                                       \
        c = load(from + (k) * sizeof(V));
#define STORE_COUNTER(k, c)                                                                                            \
    if (L > (k))                                                                                                       \
        store(to + (k) * sizeof(V), c);

/* One step of the sum of the counters and the node's constant, of which only the carries and the highest bit count. */
#define CONSTANT(k) constant_at(block, constants + 1 + (k), mixed)
#define COMPARE(k, c)                                                                                                  \
    if (L - 1 > (k))                                                                                                   \
        carry = majority(carry, c, CONSTANT(k));                                                                       \
    if (L - 1 == (k))                                                                                                  \
        carry = xor3(carry, c, CONSTANT(k));

/* A word of a node's constants in all lanes: that of each lane's class of rows, where a block has rows of several. */
TARGET __attribute__((always_inline)) static inline V constant_at(const planes_block *block, const uint64_t *word,
                                                                  const bool mixed) {
    V value = spread(word);
    if (mixed)
        for (size_t i = 0; i < block->mask_count; i++)
            value = select(load(block->masks + i * sizeof(V)), spread(word + block->mask_class[i]), value);
    return value;
}

TARGET __attribute__((always_inline)) static inline void count_nodes(const planes_block *block, const int L,
                                                                     const bool mixed) {
    const uint8_t *base = block->planes;
    const uint16_t *index = block->program->index;
    uint8_t *counters = block->counters;
    const size_t counter_bytes = (size_t)L * sizeof(V);
    for (const planes_node *node = block->program->nodes, *end = node + block->program->node_count; node < end;
         node++) {
        const uint8_t *from = counters + node->from * counter_bytes;
        uint8_t *to = counters + node->to * counter_bytes;
        FOR_COUNTERS(DECLARE)
        FOR_COUNTERS(LOAD_COUNTER)
        V wait16 = {0}, wait32 = {0}, x;
        unsigned waiting = 0;
        for (unsigned i = node->subtract_16; i > 0; i--) {
            UNIT_16(1, 1, x);
            CARRY_16(x);
        }
        if (node->mixed_16) {
            UNIT_16(1, 0, x);
            CARRY_16(x);
        }
        for (unsigned i = node->add_16; i > 0; i--) {
            UNIT_16(0, 0, x);
            CARRY_16(x);
        }
        if (node->tail == 1) {
            UNIT_8(0, x);
            CARRY_16(x);
        } else if (node->tail == 2) {
            UNIT_8(1, x);
            CARRY_16(x);
        }
        if (waiting & 1) {
            V x_ = wait16;
            HALF(4, c4)
            if (waiting & 2) {
                full_add(c5, wait32, x_, 0, 0, 0);
                x_ = wait32;
            } else {
                HALF(5, c5)
            }
            RIPPLE_FROM_6
        } else if (waiting & 2) {
            V x_ = wait32;
            HALF(5, c5)
            RIPPLE_FROM_6
        }
        if (node->keep) {
            FOR_COUNTERS(STORE_COUNTER)
        }
        if (node->output >= 0 && block->counted) {
            uint8_t *counted = block->counted + (size_t)node->output * (counter_bytes + sizeof(V));
            store(counted, load(block->parity));
            to = counted + sizeof(V);
            FOR_COUNTERS(STORE_COUNTER)
        }
        if (node->output >= 0 && block->want_signs) {
            const uint64_t *constants = block->constants + (size_t)node->output * block->program->constant_words;
            V carry = or2(load(block->parity), constant_at(block, constants, mixed));
            FOR_COUNTERS(COMPARE)
            store(block->signs + (size_t)node->output * block->signs_pitch, carry);
        }
    }
}

/* The root's counters, of the filter of zeros: minus half the window's ones, rounded down, less one; and the
 * complement of what the rounding lost. The window's planes are listed before the nodes' (window_16 units). */
TARGET __attribute__((always_inline)) static inline void count_window(const planes_block *block, const int L) {
    const uint8_t *base = block->planes;
    const uint16_t *index = block->program->window;
    FOR_COUNTERS(DECLARE)
    V wait16 = {0}, wait32 = {0}, x;
    unsigned waiting = 0;
    for (size_t i = block->program->window_16; i > 0; i--) {
        UNIT_16(0, 0, x);
        CARRY_16(x);
    }
    if (waiting & 1) {
        V x_ = wait16;
        HALF(4, c4)
        if (waiting & 2) {
            full_add(c5, wait32, x_, 0, 0, 0);
            x_ = wait32;
        } else {
            HALF(5, c5)
        }
        RIPPLE_FROM_6
    } else if (waiting & 2) {
        V x_ = wait32;
        HALF(5, c5)
        RIPPLE_FROM_6
    }
    uint8_t *to = block->counters - sizeof(V);
#define STORE_ROOT(k, c)                                                                                               \
    if (L > (k))                                                                                                       \
        store(to + (k) * sizeof(V), invert(c));
    store(block->parity, invert(c0));
    /* Shifted by one plane: c1 is the root's lowest. Its highest, of which the sum has none, is ~0. */
    FOR_COUNTERS(STORE_ROOT)
    store(block->parity, invert(c0));
    store(to + L * sizeof(V), invert(xor2(c0, c0)));
}

#define COUNT(L)                                                                                                       \
    case L:                                                                                                            \
        count_window(block, L);                                                                                        \
        if (block->mask_count)                                                                                         \
            count_nodes(block, L, true);                                                                               \
        else                                                                                                           \
            count_nodes(block, L, false);                                                                              \
        break;
TARGET void COUNT_FUNCTION(const planes_block *block) {
    switch (block->program->counter_planes) {
        COUNT(8)
        COUNT(9)
        COUNT(10)
        COUNT(11)
        COUNT(12)
        COUNT(13)
        COUNT(16)
    }
}
