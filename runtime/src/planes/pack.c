/* Packing signs: from vectors of a sheet's rows back to rows of NCHW maps. */
#include "checked.h"
#include "run.h"

#if defined(__x86_64__)
#include "transpose_avx512.h"
#endif

/* The rows of one channel, one after the other: `pitch` is a constant where it is called. */
__attribute__((always_inline)) static inline void pack_rows(const planes_sheet *sheet, size_t channel,
                                                            const uint8_t *signs, const size_t pitch) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    const size_t lane_bytes = plan->lane_bytes, row_bytes = sign_bytes(plan->out_width);
    uint8_t *map = job->bits + channel * job->out_height * row_bytes;
    for (size_t slot = 0; slot < sheet->used_slots; slot++) {
        const planes_slot *band = &sheet->band[slot];
        const uint64_t inside = low_bits(band->columns);
        const uint8_t *from = signs + slot * pitch;
        uint8_t *to = map + band->to;
        for (size_t j = 0; j < band->whole_rows; j++, from += lane_bytes, to += row_bytes)
            store_slot(to, load_slot(from, pitch) & inside, pitch);
        for (size_t j = band->whole_rows; j < band->rows; j++, from += lane_bytes, to += row_bytes)
            store_word(to, load_slot(from, pitch) & inside, sign_bytes(band->columns));
    }
}

#if defined(__x86_64__)
/* Bands of one or two rows: an instruction takes the bytes of 64 bytes of the map from the rows' two vectors. */
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi"))) static void
pack_permuted(const planes_sheet *sheet, size_t channel, const uint8_t *signs) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    const size_t lane_bytes = plan->lane_bytes;
    const __mmask64 lanes = low_bits(lane_bytes);
    const __m512i first = _mm512_maskz_loadu_epi8(lanes, signs);
    const __m512i second = _mm512_maskz_loadu_epi8(lanes, signs + (job->rows - 1) * lane_bytes);
    uint8_t *map = job->bits + channel * job->out_height * sign_bytes(plan->out_width);
    for (const planes_packing *p = sheet->packings, *end = p + sheet->packing_count; p < end; p++) {
        const __m512i bytes = _mm512_permutex2var_epi8(first, _mm512_load_si512((const void *)p->index), second);
        _mm512_mask_storeu_epi8(map + p->to, p->mask,
                                _mm512_and_si512(bytes, _mm512_load_si512((const void *)p->inside)));
    }
}

/* Slots of 64 pixels: the rows' vectors become one of rows for each slot, whose words lose the bytes beyond the width.
 */
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi"))) static void
pack_transposed(const planes_sheet *sheet, size_t channel, const uint8_t *signs) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    const size_t row_bytes = sign_bytes(plan->out_width);
    const __m512i inside = _mm512_set1_epi64((long long)low_bits(plan->out_width));
    const __m512i index = _mm512_load_si512((const void *)sheet->packings->index);
    uint8_t *map = job->bits + channel * job->out_height * row_bytes;
    __m512i rows[8];
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; j++)
        rows[j] = j < job->rows ? _mm512_load_si512((const void *)(signs + j * 64)) : _mm512_setzero_si512();
    transpose_8x8_words(rows);
#pragma GCC unroll 8
    for (size_t slot = 0; slot < 8; slot++) {
        if (slot == sheet->used_slots)
            break;
        const planes_slot *band = &sheet->band[slot];
        const __m512i bytes = _mm512_permutexvar_epi8(index, _mm512_and_si512(rows[slot], inside));
        _mm512_mask_storeu_epi8(map + band->to, low_bits(band->rows * row_bytes), bytes);
    }
}

/* The bytes of words that rows have. */
static void find_row_bytes(planes_sheet *sheet) {
    const size_t row_bytes = sign_bytes(sheet->job->conv->plan.out_width);
    for (size_t i = 0; i < 64; i++)
        sheet->packings->index[i] = (uint8_t)(i / row_bytes * 8 + i % row_bytes);
}

/* Which bytes pack_permuted takes; bands of one image follow one another, and so do the rows. */
static void find_packings(planes_sheet *sheet) {
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    const size_t row_bytes = sign_bytes(plan->out_width), last_bits = plan->out_width - 8 * (row_bytes - 1);
    planes_packing *p = NULL;
    size_t at = 0;
    sheet->packing_count = 0;
    for (size_t slot = 0; slot < sheet->used_slots; slot++) {
        const planes_slot *band = &sheet->band[slot];
        for (size_t j = 0; j < band->rows; j++)
            for (size_t b = 0; b < row_bytes; b++, at++) {
                const size_t to = band->to + j * row_bytes + b;
                if (!p || at == 64 || to != p->to + at) {
                    p = sheet->packings + sheet->packing_count++;
                    *p = (planes_packing){.to = to};
                    at = 0;
                }
                p->index[at] = (uint8_t)(j * 64 + slot * plan->pitch + b);
                p->inside[at] = (uint8_t)low_bits(b + 1 < row_bytes ? 8 : last_bits);
                p->mask |= UINT64_C(1) << at;
            }
    }
}
#endif

void planes_choose_packing(planes_sheet *sheet) {
    sheet->packing = PACK_ROWS;
#if defined(__x86_64__)
    const planes_job *job = sheet->job;
    const planes_plan *plan = &job->conv->plan;
    if (!job->bits || !planes_permute_bytes(plan))
        return;
    if (plan->pitch < 8 && job->rows <= 2) {
        sheet->packing = PACK_PERMUTED;
        find_packings(sheet);
    } else if (plan->pitch == 8 && plan->segments == 1 && plan->lane_bytes == 64 && job->rows <= 8) {
        sheet->packing = PACK_TRANSPOSED;
        find_row_bytes(sheet);
    }
#endif
}

void planes_pack(const planes_sheet *sheet, size_t channel, const uint8_t *signs) {
#if defined(__x86_64__)
    if (sheet->packing == PACK_PERMUTED) {
        pack_permuted(sheet, channel, signs);
        return;
    }
    if (sheet->packing == PACK_TRANSPOSED) {
        pack_transposed(sheet, channel, signs);
        return;
    }
#endif
    switch (sheet->job->conv->plan.pitch) {
    case 8:
        pack_rows(sheet, channel, signs, 8);
        break;
    case 4:
        pack_rows(sheet, channel, signs, 4);
        break;
    case 2:
        pack_rows(sheet, channel, signs, 2);
        break;
    default:
        pack_rows(sheet, channel, signs, 1);
    }
}
