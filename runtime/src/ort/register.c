/* RegisterCustomOps: gives onnxruntime the domain `bnncc` and its ops.
 *
 * A domain must outlive every session that was made with it, and the C API has no owner to hand it to: session options
 * hold a bare pointer. So there is one domain per copy of onnxruntime in the process (Python's wheel brings two), made
 * at the first registration, never changed afterwards and never released. The list of them is the library's only state.
 * It only grows, by compare-and-exchange, and is bounded by the number of copies of onnxruntime; the library is linked
 * so that it is never unloaded (-z nodelete), or else each load would make the list anew and lose the old one. */
#include "op.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { OP_COUNT = SIGN_OP_COUNT + POOL_OP_COUNT + CONV_OP_COUNT + LINEAR_OP_COUNT };

typedef struct registration {
    const ort_api *api; /* a table of functions: tells one copy of onnxruntime from another */
    struct OrtCustomOpDomain *domain;
    bound_op ops[OP_COUNT];
    struct registration *next;
} registration;

static _Atomic(registration *) registrations;

static registration *find(registration *first, const ort_api *api) {
    while (first && first->api != api)
        first = first->next;
    return first;
}

static void discard(registration *made) {
    if (made->domain)
        made->api->release_custom_op_domain(made->domain);
    free(made);
}

static struct OrtStatus *fill(registration *made) {
    const struct {
        const op_spec *specs;
        size_t count;
    } families[] = {
        {sign_ops, SIGN_OP_COUNT}, {pool_ops, POOL_OP_COUNT}, {conv_ops, CONV_OP_COUNT}, {linear_ops, LINEAR_OP_COUNT}};
    struct OrtStatus *status = made->api->create_custom_op_domain("bnncc", &made->domain);
    bound_op *op = made->ops;
    for (size_t family = 0; family < sizeof families / sizeof families[0]; family++)
        for (size_t i = 0; !status && i < families[family].count; i++, op++) {
            bind_op(op, &families[family].specs[i], made->api);
            status = made->api->custom_op_domain_add(made->domain, &op->table);
        }
    return status;
}

/* The registration for this copy of onnxruntime, made where there is none yet. */
static struct OrtStatus *obtain(const ort_api *api, registration **found) {
    registration *first = atomic_load(&registrations);
    *found = find(first, api);
    if (*found)
        return NULL;
    registration *made = calloc(1, sizeof *made);
    if (!made)
        return api->create_status(ORT_CODE_FAIL, "bnncc: out of memory");
    made->api = api;
    struct OrtStatus *status = fill(made);
    if (status) {
        discard(made);
        return status;
    }
    do {
        *found = find(first, api);
        if (*found) { /* another thread was faster */
            discard(made);
            return NULL;
        }
        made->next = first;
    } while (!atomic_compare_exchange_weak(&registrations, &first, made));
    *found = made;
    return NULL;
}

struct OrtStatus *RegisterCustomOps(struct OrtSessionOptions *options, const struct OrtApiBase *api_base) {
    const ort_api_base *base = (const ort_api_base *)api_base;
    const ort_api *api = base ? base->get_api(ORT_ABI_VERSION) : NULL;
    if (!api) {
        /* Creating a status has been the first function of every version's table. Where there is no table at all, what
         * called is no onnxruntime: NULL would be success, a status cannot be made without one, so it is only said. */
        const ort_api *oldest = base ? base->get_api(1) : NULL;
        if (oldest)
            return oldest->create_status(ORT_CODE_FAIL, "bnncc: needs onnxruntime 1.18 or later");
        fputs("bnncc: RegisterCustomOps was given no onnxruntime API: no op was registered\n", stderr);
        return NULL;
    }
    if (!options)
        return api->create_status(ORT_CODE_INVALID_ARGUMENT, "bnncc: the session options are NULL");
    registration *found = NULL;
    struct OrtStatus *status = obtain(api, &found);
    return status ? status : api->add_custom_op_domain(options, found->domain);
}
