/* The bit-plane kernel's convolution, made from a plan and trees. */
#include "planes.h"
#include "checked.h"
#include "cpu.h"
#include "program.h"

#include <stdlib.h>
#include <string.h>

static void choose_functions(planes_conv *conv) {
    conv->count = planes_count_portable;
    conv->expand = planes_expand_portable;
#if defined(__x86_64__)
    const bnncc_isa isa = conv->plan.isa;
    const bool numbers = conv->plan.counter_planes < 16; /* of 16 bits, which the faster functions make of counters */
    if (isa == BNNCC_ISA_AVX2) {
        conv->count = planes_count_avx2;
        if (numbers)
            conv->expand = planes_expand_avx2;
    } else if (isa == BNNCC_ISA_AVX512BW || isa == BNNCC_ISA_AVX512VPOPCNTDQ) {
        conv->count = conv->plan.lane_bytes == 64 ? planes_count_avx512 : planes_count_avx512_halves;
        if (numbers)
            conv->expand =
                isa == BNNCC_ISA_AVX512VPOPCNTDQ && cpu_has_gfni() ? planes_expand_gfni : planes_expand_avx512;
    }
#endif
}

/* Room for what the programs come with; false where there is none. The plan has checked that the sizes are small. */
static bool allocate_tables(planes_conv *conv) {
    const planes_plan *plan = &conv->plan;
    const size_t groups = (size_t)plan->params.group, channels = (size_t)plan->params.out_channels;
    const size_t classes = plan->above_count * plan->below_count;
    conv->segment_words = plan->group_filters * (1 + (size_t)plan->counter_planes);
    conv->class_words = plan->segments * conv->segment_words;
    conv->group_words = classes * conv->class_words;
    conv->programs = allocate(groups, sizeof *conv->programs);
    if (!conv->programs)
        return false;
    memset(conv->programs, 0, groups * sizeof *conv->programs);
    if (conv->epilogue->threshold) {
        conv->constants = allocate(groups * conv->group_words, sizeof *conv->constants);
        if (!conv->constants)
            return false;
    }
    if (conv->epilogue->scale) {
        conv->adds = allocate(channels, sizeof *conv->adds);
        conv->factors = allocate(channels, sizeof *conv->factors);
        conv->sums = allocate(classes * channels * plan->out_width, sizeof *conv->sums);
        if (!conv->adds || !conv->factors || !conv->sums)
            return false;
    }
    return true;
}

bnncc_status planes_conv_create(const planes_plan *plan, const group_tree *trees, const epilogue *epilogue,
                                planes_conv **result, bnncc_error *error) {
    planes_conv *conv = allocate(1, sizeof *conv);
    if (!conv)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a convolution");
    *conv = (planes_conv){.plan = *plan, .epilogue = epilogue};
    conv->group_planes = planes_work(plan, trees) / (size_t)plan->params.group;
    choose_functions(conv);
    bool fits = allocate_tables(conv);
    for (size_t group = 0; fits && group < (size_t)plan->params.group; group++)
        fits = planes_program_build(conv, trees + group, group);
    if (!fits) {
        planes_conv_destroy(conv);
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for a convolution's program");
    }
    *result = conv;
    return BNNCC_OK;
}

void planes_conv_destroy(planes_conv *conv) {
    if (!conv)
        return;
    if (conv->programs)
        for (size_t group = 0; group < (size_t)conv->plan.params.group; group++)
            planes_program_destroy(conv->programs + group);
    free(conv->programs);
    free(conv->constants);
    free(conv->adds);
    free(conv->factors);
    free(conv->sums);
    free(conv);
}
