/* Instruction sets: their names, whether this machine runs them, and which one a request stands for. */
#include "cpu.h"
#include "bnncc.h"
#include "checked.h"

#include <stdlib.h>
#include <string.h>

const char *bnncc_isa_name(bnncc_isa isa) {
    switch (isa) {
    case BNNCC_ISA_PORTABLE:
        return "portable";
    case BNNCC_ISA_AVX2:
        return "avx2";
    case BNNCC_ISA_AVX512BW:
        return "avx512bw";
    case BNNCC_ISA_AVX512VPOPCNTDQ:
        return "avx512vpopcntdq";
    default:
        return NULL;
    }
}

#if defined(__x86_64__)

/* The compiler's support library reads CPUID, and XCR0 for the registers that the operating system saves, once while
 * this library is loaded. To execute CPUID here would cost some 15 us under a hypervisor, at every call that must not
 * run instructions the CPU lacks. */
int bnncc_isa_supported(bnncc_isa isa) {
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    switch (isa) {
    case BNNCC_ISA_PORTABLE:
        return 1;
    case BNNCC_ISA_AVX2:
        return __builtin_cpu_supports("avx2") != 0;
    case BNNCC_ISA_AVX512BW:
        return avx512;
    case BNNCC_ISA_AVX512VPOPCNTDQ:
        return avx512 && __builtin_cpu_supports("avx512vpopcntdq");
    default:
        return 0;
    }
}

bool cpu_has_avx512vbmi(void) { return __builtin_cpu_supports("avx512vbmi") != 0; }
bool cpu_has_avx512vbmi2(void) { return __builtin_cpu_supports("avx512vbmi2") != 0; }
bool cpu_has_gfni(void) { return __builtin_cpu_supports("gfni") != 0; }

#else

bool cpu_has_avx512vbmi(void) { return false; }
bool cpu_has_avx512vbmi2(void) { return false; }
bool cpu_has_gfni(void) { return false; }

int bnncc_isa_supported(bnncc_isa isa) { return isa == BNNCC_ISA_PORTABLE; }

#endif

bnncc_status bnncc_isa_resolve(bnncc_isa requested, bnncc_isa *resolved, bnncc_error *error) {
    const bnncc_isa best_first[] = {BNNCC_ISA_AVX512VPOPCNTDQ, BNNCC_ISA_AVX512BW, BNNCC_ISA_AVX2, BNNCC_ISA_PORTABLE};
    const size_t count = sizeof best_first / sizeof best_first[0];
    const char *source = "the instruction set asked for";
    if (!resolved)
        return fail(error, BNNCC_INVALID_ARGUMENT, "resolved is NULL");
    if (requested == BNNCC_ISA_AUTO) {
        const char *name = getenv("BNNCC_ISA");
        if (!name || !*name) {
            size_t i = 0;
            while (!bnncc_isa_supported(best_first[i])) /* ends: portable always is */
                i++;
            *resolved = best_first[i];
            return BNNCC_OK;
        }
        for (size_t i = 0; i < count; i++)
            if (strcmp(name, bnncc_isa_name(best_first[i])) == 0)
                requested = best_first[i];
        if (requested == BNNCC_ISA_AUTO)
            return fail(error, BNNCC_INVALID_ARGUMENT,
                        "BNNCC_ISA is \"%.32s\"; it may be portable, avx2, avx512bw or avx512vpopcntdq", name);
        source = "BNNCC_ISA";
    }
    if (!bnncc_isa_name(requested))
        return fail(error, BNNCC_INVALID_ARGUMENT, "unknown instruction set %d", (int)requested);
    if (!bnncc_isa_supported(requested))
        return fail(error, BNNCC_UNSUPPORTED, "%s, %s, cannot run on this CPU", source, bnncc_isa_name(requested));
    *resolved = requested;
    return BNNCC_OK;
}
