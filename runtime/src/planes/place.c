/* Preparing planes: from packed rows of NCHW maps to a sheet's vectors, shifted for every column of the kernel. */
#include "checked.h"
#include "run.h"

#if defined(__x86_64__)
#include "transpose_avx512.h"
#endif

enum { WORD_BYTES = 8 };

typedef void place_function(const planes_sheet *sheet, size_t begin, size_t end, uint8_t *planes);

/* Rows as they are into slots of `pitch` bytes (a constant where it is called), for maps no wider than a slot. */
__attribute__((always_inline)) static inline void copy_rows(const planes_sheet *sheet, const uint8_t *map,
                                                            uint8_t *planes, const size_t pitch) {
    const planes_job *job = sheet->job;
    const bnncc_conv_params *params = &job->conv->plan.params;
    const size_t row_bytes = sign_bytes((size_t)params->width);
    const uint64_t inside = low_bits((size_t)params->width), padding = params->pad_value > 0 ? ~UINT64_C(0) : 0;
    const uint64_t outside = padding & ~inside;
    /* In variables of their own: bytes that are stored might be the job's, for all that the compiler knows. */
    const size_t *slots = sheet->padding_slots, padding_count = sheet->padding_count;
    const planes_move *move = sheet->rows_in, *end = move + sheet->rows_in_count;
    for (size_t i = 0; i < padding_count; i++)
        store_slot(planes + slots[i], padding, pitch);
    if (move == end)
        return;
    /* Eight bytes may be read where the tensor has them, whatever they are. */
    if ((size_t)(job->x_end - map) >= sheet->farthest_row + 8)
        for (; move < end; move++)
            store_slot(planes + move->to, (load_word(map + move->from, 8) & inside) | outside, pitch);
    else
        for (; move < end; move++)
            store_slot(planes + move->to, (load_word(map + move->from, row_bytes) & inside) | outside, pitch);
}

/* The other columns of a channel: column `from` moved by some pixels, in every slot. */
__attribute__((always_inline)) static inline void move_columns(const planes_job *job, const uint8_t *from,
                                                               int64_t shift, uint8_t *to) {
    const size_t words = job->input_rows * job->conv->plan.lane_bytes / WORD_BYTES, pixels = 8 * job->conv->plan.pitch;
    const uint64_t padding = job->conv->plan.params.pad_value > 0 ? ~UINT64_C(0) : 0;
    const uint64_t slot_ones = low_bits(pixels);
    uint64_t keep = 0; /* where the bits that stay in their slot arrive */
    const size_t distance = (size_t)(shift < 0 ? -shift : shift);
    for (size_t at = 0; distance < pixels && at < 64; at += pixels)
        keep |= (shift < 0 ? slot_ones << distance & slot_ones : slot_ones >> distance) << at;
    const uint64_t *in = (const uint64_t *)(const void *)from;
    uint64_t *out = (uint64_t *)(void *)to;
    const uint64_t fill = padding & ~keep;
    if (distance >= pixels)
        for (size_t i = 0; i < words; i++)
            out[i] = fill;
    else if (shift < 0)
        for (size_t i = 0; i < words; i++)
            out[i] = (in[i] << distance & keep) | fill;
    else
        for (size_t i = 0; i < words; i++)
            out[i] = (in[i] >> distance & keep) | fill;
}

/* Channels [begin, end). Their rows are copied first and then moved: a wide load soon after narrow stores waits. */
#define PLACE(TARGET, NAME)                                                                                            \
    TARGET static void NAME(const planes_sheet *sheet, size_t begin, size_t end, uint8_t *planes) {                    \
        const planes_job *job = sheet->job;                                                                            \
        const bnncc_conv_params *params = &job->conv->plan.params;                                                     \
        const size_t columns = (size_t)params->kernel_shape[1];                                                        \
        const size_t column_bytes = job->column_bytes;                                                                 \
        const size_t map_bytes = job->height * sign_bytes((size_t)params->width);                                      \
        /* The column that is not moved, or else the last, holds the rows as they are until the others are made. */    \
        size_t middle = columns - 1;                                                                                   \
        for (size_t column = 0; column < columns; column++)                                                            \
            if ((int64_t)column * params->dilations[1] == params->pads[1])                                             \
                middle = column;                                                                                       \
        uint8_t *rows = planes + middle * column_bytes;                                                                \
        const uint8_t *map = job->x + begin * map_bytes;                                                               \
        for (size_t channel = begin; channel < end; channel++, map += map_bytes, rows += columns * column_bytes)       \
            switch (job->conv->plan.pitch) {                                                                           \
            case 8:                                                                                                    \
                copy_rows(sheet, map, rows, 8);                                                                        \
                break;                                                                                                 \
            case 4:                                                                                                    \
                copy_rows(sheet, map, rows, 4);                                                                        \
                break;                                                                                                 \
            case 2:                                                                                                    \
                copy_rows(sheet, map, rows, 2);                                                                        \
                break;                                                                                                 \
            default:                                                                                                   \
                copy_rows(sheet, map, rows, 1);                                                                        \
            }                                                                                                          \
        for (size_t channel = begin; channel < end; channel++, planes += columns * column_bytes) {                     \
            rows = planes + middle * column_bytes;                                                                     \
            for (size_t column = 0; column < columns; column++)                                                        \
                if (column != middle)                                                                                  \
                    move_columns(job, rows, (int64_t)column * params->dilations[1] - params->pads[1],                  \
                                 planes + column * column_bytes);                                                      \
            if ((int64_t)middle * params->dilations[1] != params->pads[1])                                             \
                move_columns(job, rows, (int64_t)middle * params->dilations[1] - params->pads[1], rows);               \
        }                                                                                                              \
    }
PLACE(, place_narrow_portable)
#if defined(__x86_64__)
PLACE(__attribute__((target("avx2"))), place_narrow_avx2)
PLACE(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))), place_narrow_avx512)
#endif

/* Up to 64 bits of a row from a position that may lie outside it, where there is padding. */
static uint64_t row_bits(const uint8_t *row, int64_t width, int64_t first, uint64_t padding) {
    if (first <= -64 || first >= width)
        return padding;
    const size_t skip = first < 0 ? (size_t)-first : 0;
    const size_t begin = first < 0 ? 0 : (size_t)first, count = smaller((size_t)width - begin, 64 - skip);
    const size_t bytes = sign_bytes(begin % 8 + count);
    uint64_t word = load_word(row + begin / 8, smaller(bytes, 8)) >> begin % 8;
    if (bytes > 8)
        word |= (uint64_t)row[begin / 8 + 8] << (64 - begin % 8);
    const uint64_t inside = low_bits(count) << skip;
    return (word << skip & inside) | (padding & ~inside);
}

/* Every second, third, ... bit of a row from a position that may lie outside it: up to 64 output pixels. */
static uint64_t thin_out(const uint8_t *row, int64_t width, int64_t first, int64_t stride, uint64_t padding,
                         size_t count) {
    if (stride == 1)
        return row_bits(row, width, first, padding);
    if (stride == 2) {
        const uint64_t low = even_bits(row_bits(row, width, first, padding));
        return count <= 32 ? low : low | even_bits(row_bits(row, width, first + 64, padding)) << 32;
    }
    uint64_t word = 0;
    for (size_t i = 0; i < count; i++) {
        const int64_t x = first + (int64_t)i * stride;
        const uint64_t bit = x >= 0 && x < width ? (uint64_t)(row[x / 8] >> x % 8 & 1) : padding & 1;
        word |= bit << i;
    }
    return word;
}

/* The planes of one input channel of a sheet. */
static void place_channel(const planes_sheet *sheet, size_t channel, uint8_t *planes) {
    const planes_job *job = sheet->job;
    const planes_conv *conv = job->conv;
    const bnncc_conv_params *params = &conv->plan.params;
    const size_t columns = (size_t)params->kernel_shape[1], lane_bytes = conv->plan.lane_bytes,
                 pitch = conv->plan.pitch;
    const size_t row_bytes = sign_bytes((size_t)params->width), column_bytes = job->column_bytes;
    const size_t pixels = smaller(64, pitch * 8);
    const uint64_t padding = params->pad_value > 0 ? ~UINT64_C(0) : 0;
    for (size_t slot = 0; slot < job->slots; slot++) {
        if (slot >= sheet->used_slots) {
            for (size_t column = 0; column < columns; column++)
                for (size_t i = 0; i < job->input_rows; i++)
                    memset(planes + column * column_bytes + i * lane_bytes + slot * pitch, 0, pitch);
            continue;
        }
        const size_t segment = sheet->band[slot].segment;
        const uint8_t *map =
            job->x + (sheet->band[slot].image * (size_t)params->in_channels + channel) * job->height * row_bytes;
        const int64_t top = (int64_t)sheet->band[slot].row * params->strides[0] - params->pads[0];
        uint8_t *to = planes + slot * pitch;
        for (size_t i = 0; i < job->input_rows; i++, to += lane_bytes) {
            const int64_t y = top + (int64_t)i;
            const bool row_inside = y >= 0 && y < (int64_t)job->height;
            const uint8_t *row = map + (row_inside ? (size_t)y * row_bytes : 0);
            for (size_t column = 0; column < columns; column++) {
                const int64_t first = (int64_t)(segment * 64) * params->strides[1] +
                                      (int64_t)column * params->dilations[1] - params->pads[1];
                const uint64_t word =
                    row_inside ? thin_out(row, params->width, first, params->strides[1], padding, pixels) : padding;
                store_slot(to + column * column_bytes, word, pitch);
            }
        }
    }
}

#if defined(__x86_64__)
/* One vector of rows, moved for each of the kernel's columns; ones: the padding's sign in all lanes. What a rotation
 * brings round is not kept. */
__attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl"))) static inline void
store_columns(const planes_job *job, __m512i rows, __m512i ones, uint8_t *to) {
    const planes_plan *plan = &job->conv->plan;
    for (size_t column = 0; column < (size_t)plan->params.kernel_shape[1]; column++, to += job->column_bytes) {
        const __m512i keep = _mm512_set1_epi64((long long)job->keep[column]);
        const __m512i rotated = _mm512_rolv_epi64(rows, _mm512_set1_epi64((long long)job->rotate[column]));
        const __m512i moved = _mm512_ternarylogic_epi64(keep, rotated, ones, 0xca);
        if (plan->lane_bytes == 64)
            _mm512_store_si512((void *)to, moved);
        else
            _mm256_store_si256((__m256i *)(void *)to, _mm512_castsi512_si256(moved));
    }
}

/* Slots of 64 pixels: a gathering load takes a row for each. */
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) static void
place_gathered(const planes_sheet *sheet, size_t begin, size_t end, uint8_t *planes) {
    const planes_job *job = sheet->job;
    const planes_conv *conv = job->conv;
    const bnncc_conv_params *params = &conv->plan.params;
    const size_t columns = (size_t)params->kernel_shape[1], lane_bytes = conv->plan.lane_bytes,
                 input_rows = job->input_rows;
    const size_t map_bytes = job->height * sign_bytes((size_t)params->width), column_bytes = job->column_bytes;
    const uint8_t *map = job->x + begin * map_bytes;
    const __m512i ones = _mm512_set1_epi64(params->pad_value > 0 ? -1 : 0);
    const __m512i inside = _mm512_set1_epi64((long long)low_bits((size_t)params->width));
    for (size_t channel = begin; channel < end; channel++, map += map_bytes, planes += columns * column_bytes) {
        if ((size_t)(job->x_end - map) < sheet->farthest_row + 8) { /* the loads would leave the tensor */
            place_narrow_avx512(sheet, channel, channel + 1, planes);
            continue;
        }
        for (size_t i = 0; i < input_rows; i++) {
            const planes_permutation *p = sheet->permutations + i;
            const __mmask8 present = (__mmask8)p->mask;
            const __m512i offsets = _mm512_load_si512((const void *)p->index);
            __m512i rows = _mm512_mask_i64gather_epi64(ones, present, offsets, map, 1);
            rows = _mm512_ternarylogic_epi64(inside, rows, ones, 0xca);
            store_columns(job, rows, ones, planes + i * lane_bytes);
        }
    }
}

/* What the above needs for a sheet: offsets of rows, and where there are any. */
static void find_gathers(planes_sheet *sheet) {
    const planes_job *job = sheet->job;
    memset(sheet->permutations, 0, job->input_rows * sizeof *sheet->permutations);
    const size_t lane_bytes = job->conv->plan.lane_bytes;
    for (size_t i = 0; i < sheet->rows_in_count; i++) {
        planes_permutation *p = sheet->permutations + sheet->rows_in[i].to / lane_bytes;
        const size_t slot = sheet->rows_in[i].to % lane_bytes / 8;
        const uint64_t offset = sheet->rows_in[i].from;
        memcpy(p->index + slot * 8, &offset, 8);
        p->mask |= UINT64_C(1) << slot;
    }
}

/* The same where rows can be taken apart within a register: a load takes eight rows of a slot, one after the other in
 * the map, and eight slots' loads change places with the rows. */
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi"))) static void
place_transposed(const planes_sheet *sheet, size_t begin, size_t end, uint8_t *planes) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    const size_t columns = (size_t)plan->params.kernel_shape[1], input_rows = job->input_rows;
    const size_t row_bytes = sign_bytes((size_t)plan->params.width), map_bytes = job->height * row_bytes;
    const uint8_t *map = job->x + begin * map_bytes;
    const __m512i ones = _mm512_set1_epi64(plan->params.pad_value > 0 ? -1 : 0);
    _Alignas(64) uint8_t index[64]; /* bytes of rows to words */
    for (size_t i = 0; i < 64; i++)
        index[i] = (uint8_t)(i / 8 * row_bytes + i % 8);
    const __m512i spread = _mm512_load_si512((const void *)index);
    const size_t blocks = divide_up(input_rows, 8), farthest = (blocks - 1) * 8 * row_bytes + 64;
    ptrdiff_t first = 0, last = 0;
    for (size_t slot = 0; slot < sheet->used_slots; slot++) {
        first = sheet->slot_rows[slot] < first ? sheet->slot_rows[slot] : first;
        last = sheet->slot_rows[slot] > last ? sheet->slot_rows[slot] : last;
    }
    for (size_t channel = begin; channel < end; channel++, map += map_bytes, planes += columns * job->column_bytes) {
        if (map - job->x < -first || job->x_end - map < last + (ptrdiff_t)farthest) { /* it would leave the tensor */
            place_narrow_avx512(sheet, channel, channel + 1, planes);
            continue;
        }
        for (size_t block = 0; block < blocks; block++) {
            __m512i rows[8];
#pragma GCC unroll 8
            for (size_t slot = 0; slot < 8; slot++) {
                const uint8_t *from = map + sheet->slot_rows[slot] + block * 8 * row_bytes;
                rows[slot] = _mm512_permutexvar_epi8(spread, _mm512_loadu_si512((const void *)from));
            }
            transpose_8x8_words(rows);
            const size_t count = smaller(input_rows - block * 8, 8);
#pragma GCC unroll 8
            for (size_t i = 0; i < 8; i++) {
                if (i == count)
                    break;
                const size_t row = block * 8 + i;
                const __m512i inside = _mm512_load_si512((const void *)(sheet->inside + row * 64));
                store_columns(job, _mm512_ternarylogic_epi64(inside, rows[i], ones, 0xca), ones,
                              planes + row * plan->lane_bytes);
            }
        }
    }
}

/* What the above needs for a sheet. Slots that are not used are read like the first, and nothing of them is inside. */
static void find_slot_rows(planes_sheet *sheet) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    const bnncc_conv_params *params = &plan->params;
    const ptrdiff_t row_bytes = (ptrdiff_t)sign_bytes((size_t)params->width);
    const ptrdiff_t image_bytes = (ptrdiff_t)(params->in_channels * (int64_t)job->height) * row_bytes;
    const uint64_t inside = little_endian(low_bits((size_t)params->width));
    memset(sheet->inside, 0, job->input_rows * 64);
    for (size_t slot = 0; slot < 8; slot++) {
        const planes_slot *band = &sheet->band[slot < sheet->used_slots ? slot : 0];
        const ptrdiff_t top = (ptrdiff_t)((int64_t)band->row * params->strides[0] - params->pads[0]);
        sheet->slot_rows[slot] = (ptrdiff_t)band->image * image_bytes + top * row_bytes;
        for (size_t i = 0; slot < sheet->used_slots && i < job->input_rows; i++)
            if (top + (ptrdiff_t)i >= 0 && top + (ptrdiff_t)i < (ptrdiff_t)job->height)
                memcpy(sheet->inside + i * 64 + slot * 8, &inside, 8);
    }
}

/* Maps of at most 128 bytes fit two vectors, from which one instruction takes the bytes of all of a vector's slots. */
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi"))) static void
place_permuted(const planes_sheet *sheet, size_t begin, size_t end, uint8_t *planes) {
    const planes_job *job = sheet->job;
    const planes_conv *conv = job->conv;
    const bnncc_conv_params *params = &conv->plan.params;
    const size_t columns = (size_t)params->kernel_shape[1], lane_bytes = conv->plan.lane_bytes,
                 input_rows = job->input_rows;
    const size_t map_bytes = job->height * sign_bytes((size_t)params->width), column_bytes = job->column_bytes;
    const size_t image_bytes = (size_t)params->in_channels * map_bytes, images = sheet->permuted_images;
    const __mmask64 low = low_bits(map_bytes), high = map_bytes > 64 ? low_bits(map_bytes - 64) : 0;
    const __m512i ones = _mm512_set1_epi64(params->pad_value > 0 ? -1 : 0);
    const uint8_t *map = job->x + sheet->band[0].image * image_bytes + begin * map_bytes;
    for (size_t channel = begin; channel < end; channel++, map += map_bytes, planes += columns * column_bytes) {
        for (size_t i = 0; i < input_rows; i++) {
            __m512i rows = _mm512_setzero_si512();
            for (size_t image = 0; image < images; image++) {
                const planes_permutation *p = sheet->permutations + image * input_rows + i;
                const uint8_t *from = map + image * image_bytes;
                const __m512i first = _mm512_maskz_loadu_epi8(low, from),
                              second = _mm512_maskz_loadu_epi8(high, from + 64);
                const __m512i index = _mm512_load_si512((const void *)p->index);
                rows = _mm512_or_si512(rows, _mm512_maskz_permutex2var_epi8(p->mask, first, index, second));
            }
            const __m512i inside = _mm512_load_si512((const void *)(sheet->inside + i * 64));
            rows = _mm512_ternarylogic_epi64(inside, rows, ones, 0xca);
            store_columns(job, rows, ones, planes + i * lane_bytes);
        }
    }
}

/* What place_permuted needs for a sheet: which bytes of each image's map go where. */
static void find_permutations(planes_sheet *sheet) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    const size_t row_bytes = sign_bytes((size_t)plan->params.width), pitch = plan->pitch;
    const uint64_t inside = little_endian(low_bits((size_t)plan->params.width));
    sheet->permuted_images = sheet->band[sheet->used_slots - 1].image - sheet->band[0].image + 1;
    memset(sheet->permutations, 0, sheet->permuted_images * job->input_rows * sizeof *sheet->permutations);
    memset(sheet->inside, 0, job->input_rows * 64);
    for (size_t slot = 0; slot < sheet->used_slots; slot++)
        for (size_t i = 0; i < job->input_rows; i++) {
            const planes_slot *band = &sheet->band[slot];
            const int64_t row = (int64_t)band->row * plan->params.strides[0] - plan->params.pads[0] + (int64_t)i;
            if (row < 0 || row >= (int64_t)job->height)
                continue;
            planes_permutation *p = sheet->permutations + (band->image - sheet->band[0].image) * job->input_rows + i;
            memcpy(sheet->inside + i * 64 + slot * pitch, &inside, pitch);
            for (size_t b = 0; b < row_bytes; b++) {
                p->mask |= UINT64_C(1) << (slot * pitch + b);
                p->index[slot * pitch + b] = (uint8_t)((size_t)row * row_bytes + b);
            }
        }
}
#endif

static void place_wide(const planes_sheet *sheet, size_t begin, size_t end, uint8_t *planes) {
    const planes_job *job = sheet->job;
    const size_t channel_bytes = (size_t)job->conv->plan.params.kernel_shape[1] * job->column_bytes;
    for (size_t channel = begin; channel < end; channel++, planes += channel_bytes)
        place_channel(sheet, channel, planes);
}

void planes_find_moves(planes_job *job) {
    const planes_plan *plan = &job->conv->plan;
    const size_t columns = (size_t)plan->params.kernel_shape[1], pixels = 8 * plan->pitch;
    const uint64_t slot_ones = low_bits(pixels);
    for (size_t column = 0; column < columns && column < MOST_COLUMNS; column++) {
        const int64_t shift = (int64_t)column * plan->params.dilations[1] - plan->params.pads[1];
        const size_t distance = (size_t)(shift < 0 ? -shift : shift);
        job->keep[column] = 0;
        job->rotate[column] = (uint64_t)-shift % 64; /* to the left */
        for (size_t at = 0; distance < pixels && at < 64; at += pixels)
            job->keep[column] |= (shift < 0 ? slot_ones << distance & slot_ones : slot_ones >> distance) << at;
    }
}

void planes_choose_placing(planes_sheet *sheet) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    sheet->placing = plan->narrow ? PLACE_NARROW : PLACE_WIDE;
#if defined(__x86_64__)
    const bool few_columns = plan->params.kernel_shape[1] <= MOST_COLUMNS;
    if (!plan->narrow || !few_columns || plan->isa < BNNCC_ISA_AVX512BW)
        return;
    if (plan->pitch == 8 && plan->lane_bytes == 64 && planes_permute_bytes(plan)) {
        sheet->placing = PLACE_TRANSPOSED;
        find_slot_rows(sheet);
    } else if (plan->pitch == 8) {
        sheet->placing = PLACE_GATHERED;
        find_gathers(sheet);
    } else if (job->height <= 128 / sign_bytes((size_t)plan->params.width) && planes_permute_bytes(plan)) {
        sheet->placing = PLACE_PERMUTED;
        find_permutations(sheet);
    }
#endif
}

static place_function *narrow_for(bnncc_isa isa) {
#if defined(__x86_64__)
    if (isa >= BNNCC_ISA_AVX512BW)
        return place_narrow_avx512;
    if (isa == BNNCC_ISA_AVX2)
        return place_narrow_avx2;
#else
    (void)isa;
#endif
    return place_narrow_portable;
}

void planes_place(const planes_sheet *sheet, size_t begin, size_t end, uint8_t *planes) {
    place_function *place = place_wide;
    if (sheet->placing == PLACE_NARROW)
        place = narrow_for(sheet->job->conv->plan.isa);
#if defined(__x86_64__)
    else if (sheet->placing == PLACE_GATHERED)
        place = place_gathered;
    else if (sheet->placing == PLACE_TRANSPOSED)
        place = place_transposed;
    else if (sheet->placing == PLACE_PERMUTED)
        place = place_permuted;
#endif
    place(sheet, begin, end, planes);
}
