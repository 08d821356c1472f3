/* Which kernel serves a convolution: what the user asks for, and what each would cost. */
#ifndef BNNCC_CONV_KERNEL_H
#define BNNCC_CONV_KERNEL_H

#include "channels/channels.h"
#include "planes/planes.h"

typedef enum conv_kernel {
    CONV_KERNEL_AUTO, /* the cheapest one */
    CONV_KERNEL_DOT,
    CONV_KERNEL_PLANES, /* wherever there are trees */
    CONV_KERNEL_CHANNELS,
} conv_kernel;

typedef struct conv_request {
    conv_kernel kernel;
    size_t lane_bits; /* 0: any */
    bool hint;        /* where it cannot be had, another will do */
} conv_request;

/* What the environment variable BNNCC_KERNEL says, or else the hint (which may be NULL), or else that any will do. */
bnncc_status conv_kernel_requested(const char *hint, conv_request *request, bnncc_error *error);

/* Rough times in nanoseconds that are good for being compared with each other, of one thread but for planes_cost.
 * words: 64-bit words of a filter; taps: of its kernel; filters: of all groups. work: see planes_work.
 * floats: whether there is float output, which the bit-plane kernel has to make of its counters. */
double dot_cost(bnncc_isa isa, size_t words, size_t taps, size_t filters, size_t groups, double pixels);
double planes_cost(const planes_plan *plan, size_t work, bool floats, size_t batch, size_t out_height, size_t threads);
/* differing: see channels_differing. */
double channels_cost(const channels_plan *plan, double differing, bool floats, size_t batch, size_t out_height);

#endif /* BNNCC_CONV_KERNEL_H */
