/* bnncc's C API: exact binary convolution and its companions on packed signs, and the entry point for onnxruntime.
 *
 * Packed signs. A +-1 tensor of shape [d0, ..., dn-1] is stored as bytes [d0, ..., dn-2, ceil(dn-1 / 8)]: bits along
 * the last axis, little-endian (element j is bit j % 8 of byte j / 8), 1 for +1 and 0 for -1. The unused high bits of
 * a row's last byte are ignored on input and 0 on output. An NCHW activation is thus one bit-plane per channel.
 *
 * Limits. Every dimension, stride, dilation, pad and batch is at most 2^31 - 1, and a filter has at most 2^24 weights,
 * so that every dot product is an integer which float32 holds exactly. What exceeds them is BNNCC_INVALID_ARGUMENT.
 *
 * Every function is re-entrant. Objects are immutable once created, so one object may be run by many threads at once.
 * The only state is working memory, of up to 16 runs at a time and 16 MiB each, that is kept for later runs until the
 * library is unloaded. Errors are returned, never printed; no function aborts.
 */
#ifndef BNNCC_H
#define BNNCC_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define BNNCC_API __declspec(dllexport)
#else
#define BNNCC_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bnncc_status {
    BNNCC_OK = 0,
    BNNCC_INVALID_ARGUMENT = 1, /* a size, attribute or pointer that cannot be; the message says which */
    BNNCC_OUT_OF_MEMORY = 2,
    BNNCC_UNSUPPORTED = 3, /* an instruction set that this CPU, or this build, does not have */
} bnncc_status;

/* Where a function that can fail writes why, as one line. May be NULL. */
typedef struct bnncc_error {
    char message[256];
} bnncc_error;

/* ---- Instruction sets ------------------------------------------------------------------------------------------ */

typedef enum bnncc_isa {
    BNNCC_ISA_AUTO = 0, /* the environment variable BNNCC_ISA if set, else the best that the CPU has */
    BNNCC_ISA_PORTABLE = 1,
    BNNCC_ISA_AVX2 = 2,
    BNNCC_ISA_AVX512BW = 3,
    BNNCC_ISA_AVX512VPOPCNTDQ = 4,
} bnncc_isa;

BNNCC_API const char *bnncc_version(void);
/* "portable", "avx2", "avx512bw", "avx512vpopcntdq" (the values of BNNCC_ISA); NULL for another value. */
BNNCC_API const char *bnncc_isa_name(bnncc_isa isa);
/* 1 where this CPU and operating system can run it, else 0. */
BNNCC_API int bnncc_isa_supported(bnncc_isa isa);
/* What `requested` stands for on this machine; BNNCC_UNSUPPORTED where it cannot run here. */
BNNCC_API bnncc_status bnncc_isa_resolve(bnncc_isa requested, bnncc_isa *resolved, bnncc_error *error);

/* ---- Threads --------------------------------------------------------------------------------------------------- */

/* How a run spreads its work: `run` calls task(argument, i) for every i in [0, count), in any order, on any threads,
 * and returns when all are done. `threads`: how many tasks are likely to run at a time; 0 where that is not known.
 * Results never depend on it. A NULL bnncc_parallel runs everything on the caller. */
typedef struct bnncc_parallel {
    void (*run)(void *context, void (*task)(void *argument, size_t index), void *argument, size_t count);
    void *context;
    size_t threads;
} bnncc_parallel;

/* ---- Epilogues: what becomes of the integer dot product ---------------------------------------------------------- */

/* A step from a float y to the next, each rounded to float32: `operand` is one value per channel, `residual` a tensor
 * of the output's shape, `window_sum` the sum of all signs that the output's filter sees, padding as pad_value says:
 * the library counts it once for all filters of a group. NaN stays NaN; which zero MAXIMUM and MINIMUM give for zeros
 * of both signs is not said. */
typedef enum bnncc_step {
    BNNCC_STEP_ADD = 0,        /* y + operand */
    BNNCC_STEP_MULTIPLY = 1,   /* y * operand */
    BNNCC_STEP_RESIDUAL = 2,   /* y + residual; the operand is not used */
    BNNCC_STEP_PRELU = 3,      /* y * operand where y < 0, else y */
    BNNCC_STEP_MAXIMUM = 4,    /* max(y, operand) */
    BNNCC_STEP_MINIMUM = 5,    /* min(y, operand) */
    BNNCC_STEP_WINDOW_SUM = 6, /* y + operand * window_sum, the product being rounded as well */
} bnncc_step;

enum { BNNCC_STEP_LIMIT = 16 }; /* steps of one epilogue */

/* The steps of a convolution's float output, in their order, and the bits taken from what they give. */
typedef struct bnncc_steps {
    const int32_t *kinds;  /* of bnncc_step */
    size_t count;          /* 1 to BNNCC_STEP_LIMIT; at most one of them is BNNCC_STEP_RESIDUAL */
    const float *operands; /* [count][operand_count] */
    size_t operand_count;  /* 1 (shared) or the number of output channels */
    /* NULL for no bits; else bits as bnncc_binarize gives them, with 1 value or one per output channel. */
    const float *threshold;
    size_t threshold_count;
    const int8_t *direction;
    size_t direction_count;
    int nan_bit;
} bnncc_steps;

/* dot is the exact integer sum of products. Float output: dot * scale + shift, each step rounded to float32 (no fused
 * multiply-add), as onnxruntime's BatchNormalization rounds; then the steps, where there are any. Bit output: dot >=
 * threshold, or what the steps say, but not both. At least one output must be asked for. The arrays are copied at
 * creation. */
typedef struct bnncc_epilogue {
    const float *scale, *shift;      /* NULL for no float output; else scale_count and shift_count values */
    size_t scale_count, shift_count; /* 1 (shared) or the number of output channels */
    const int32_t *threshold;        /* NULL for no bits of dot; else one value per output channel */
    size_t threshold_count;
    const bnncc_steps *steps; /* NULL for none; of convolutions with float output only */
} bnncc_epilogue;

/* ---- Trees over filters ------------------------------------------------------------------------------------------ */

/* A filter's outputs follow from another filter's by the bits in which the two differ, so a layer costs the differing
 * bits along a tree over its filters. Its nodes are the filters, some of them complemented, and virtual filters, which
 * give no output. The functions find such trees and all that a kernel needs to know of one. Filters are packed signs
 * [filters][ceil(length / 8)]; a parent is a node's number, or -1 where there is none. Parents that are no nodes or go
 * in circles are BNNCC_INVALID_ARGUMENT. */

/* distances [a_count][b_count]: the number of bits in which filter i of a and filter j of b differ. */
BNNCC_API bnncc_status bnncc_hamming_distances(const uint8_t *a, int64_t a_count, const uint8_t *b, int64_t b_count,
                                               int64_t length, int32_t *distances, bnncc_isa isa, bnncc_error *error);

/* How bnncc_steiner_tree searches. */
typedef struct bnncc_steiner_params {
    int64_t count, length; /* filters, 3 or more, and their bits */
    int32_t complement;    /* 1: a filter other than filter 0 may be replaced by its complement */
    int32_t sweeps;        /* at most so many times every branch is tried in every other place */
} bnncc_steiner_params;

/* Searches a tree of filters and virtual filters with few differing bits along its edges.
 *
 * The tree is binary: filter 0 is its root and has one child, the other filters are its leaves, and the nodes from
 * count to 2 count - 3 are virtual filters with two children each. parents [2 count - 2]: parents[0] is -1. flipped
 * [count]: 1 where the tree is over the complement of the filter. bits: the differing bits along the tree when the
 * virtual filters are chosen best. Filters are inserted in their order, each where it costs least; near ones first is a
 * good order. */
BNNCC_API bnncc_status bnncc_steiner_tree(const bnncc_steiner_params *params, const uint8_t *filters, int32_t *parents,
                                          uint8_t *flipped, int64_t *bits, bnncc_isa isa, bnncc_error *error);

/* The filters of all nodes of a tree [node_count][ceil(length / 8)], the virtual ones being those that make the
 * differing bits along its edges fewest; where several do, a bit is as in the parent.
 *
 * parents [node_count]: with shared_root, -1 stands for the filter of zeros. The first filter_count nodes are the
 * filters, complemented where flipped [filter_count] is not 0; the others are virtual. */
BNNCC_API bnncc_status bnncc_virtual_filters(const uint8_t *filters, int64_t filter_count, int64_t length,
                                             const int32_t *parents, const uint8_t *flipped, int64_t node_count,
                                             int shared_root, uint8_t *bits, bnncc_error *error);

/* In which order to count the nodes of a tree, and in which set of counters each.
 *
 * order [node_count]: every node after its parent, depth first, small branches first. slots [node_count]: sets of
 * counters, 0 to *slot_count - 1; a node whose slot is its parent's replaces it there, where it is not needed any more.
 * No more than 1 + log2(node_count) slots are taken. */
BNNCC_API bnncc_status bnncc_tree_schedule(const int32_t *parents, int64_t node_count, int32_t *order, int32_t *slots,
                                           int32_t *slot_count, bnncc_error *error);

/* The trees of a convolution: a hint to its kernel that never changes a result. One tree for each group, whose nodes
 * have numbers of their own: its filters come first, then virtual filters. */
typedef struct bnncc_filter_tree {
    const int64_t *group_nodes; /* [group]: nodes of each group's tree */
    const int32_t *parents;     /* [node_count]: one group after the other; -1: the filter of zeros */
    size_t node_count;          /* of all groups */
    const uint8_t *flipped;     /* [out_channels]: 1 where the node is the complement of the filter, else 0 */
} bnncc_filter_tree;

/* ---- Binary convolution --------------------------------------------------------------------------------------------
 */

/* x: packed signs [batch, in_channels, height, ceil(width / 8)]; weight: packed signs [out_channels, ceil(K / 8)],
 * K = (in_channels / group) * kernel_height * kernel_width in (channel, row, column) order. */
typedef struct bnncc_conv_params {
    int64_t out_channels, in_channels, group;
    int64_t kernel_shape[2]; /* height, width */
    int64_t strides[2], dilations[2];
    int64_t pads[4];   /* top, left, bottom, right */
    int64_t pad_value; /* 0: padding contributes nothing; +1 or -1: padding of that sign */
    int64_t width;     /* of the input, in pixels */
} bnncc_conv_params;

typedef struct bnncc_conv bnncc_conv;

/* What may make a convolution faster, but never changes a result. */
typedef struct bnncc_conv_hints {
    const bnncc_filter_tree *tree; /* NULL, or trees over the filters; checked whether a kernel uses them or not */
    const char *kernel;            /* NULL or "auto", or the kernel to use where it can be had; see below */
} bnncc_conv_hints;

/* hints: NULL, or hints, which need not be kept.
 *
 * There are three kernels. "dot" takes dot products. "planes" counts along trees over the filters, output pixels in its
 * lanes; it needs the trees. "channels" counts with filters in its lanes. Each run has the one that a rough estimate of
 * times finds fastest for its batch, height and input, unless the hint names one, or the environment variable
 * BNNCC_KERNEL, read here, does: "auto", "dot", "planes" or "channels", the latter two perhaps with the bits of their
 * lanes ("planes 256"). What a hint names and cannot be had is passed over; what the variable names is then
 * BNNCC_UNSUPPORTED, but for "planes" where there is no tree, which is "dot". */
BNNCC_API bnncc_status bnncc_conv_create(const bnncc_conv_params *params, const uint8_t *weight, size_t weight_size,
                                         const bnncc_epilogue *epilogue, const bnncc_conv_hints *hints, bnncc_isa isa,
                                         bnncc_conv **conv, bnncc_error *error);
BNNCC_API void bnncc_conv_destroy(bnncc_conv *conv);
/* Output height for an input height, and the (fixed) output width in pixels. */
BNNCC_API bnncc_status bnncc_conv_output_shape(const bnncc_conv *conv, int64_t height, int64_t *out_height,
                                               int64_t *out_width, bnncc_error *error);
/* The kernel and instruction set in use, for reports: "dot/avx512vpopcntdq", "planes/avx2 256" (lanes of 256 bits),
 * "channels/avx512bw 512" or, where it depends on the run, "planes/avx512bw 512+256, channels 512, dot". */
BNNCC_API const char *bnncc_conv_kernel(const bnncc_conv *conv);

/* A kernel that a convolution could use, as hints name it, and the time that one thread would roughly take. */
typedef struct bnncc_kernel_estimate {
    char kernel[32];
    double nanoseconds;
} bnncc_kernel_estimate;

enum { BNNCC_KERNEL_LIMIT = 4 };
/* estimates: room for BNNCC_KERNEL_LIMIT of them, *count is how many there are. differing: the share of inputs whose
 * sign is not that of most in their map, at most 0.5 (coin flips); about 0.2 in trained networks. */
BNNCC_API bnncc_status bnncc_conv_estimate(const bnncc_conv *conv, int64_t batch, int64_t height, double differing,
                                           bnncc_kernel_estimate *estimates, size_t *count, bnncc_error *error);
/* y: float32 [batch, out_channels, out_height, out_width], NULL exactly where the epilogue gives no float output;
 * bits: packed signs [batch, out_channels, out_height, ceil(out_width / 8)], NULL exactly where it gives no bits;
 * residual: float32 of y's shape, y itself or apart from it, NULL exactly where no step adds it. */
BNNCC_API bnncc_status bnncc_conv_run(const bnncc_conv *conv, const uint8_t *x, const float *residual, int64_t batch,
                                      int64_t height, float *y, uint8_t *bits, const bnncc_parallel *parallel,
                                      bnncc_error *error);

/* ---- Binary linear layer --------------------------------------------------------------------------------------------
 */

/* x: packed signs [batch, rows, ceil(width / 8)], flattened to K = rows * width features; weight: [out_features,
 * ceil(K / 8)]; y: float32 [batch, out_features]; bits: [batch, ceil(out_features / 8)]. */
typedef struct bnncc_linear_params {
    int64_t out_features, rows, width;
} bnncc_linear_params;

typedef struct bnncc_linear bnncc_linear;

BNNCC_API bnncc_status bnncc_linear_create(const bnncc_linear_params *params, const uint8_t *weight, size_t weight_size,
                                           const bnncc_epilogue *epilogue, bnncc_isa isa, bnncc_linear **linear,
                                           bnncc_error *error);
BNNCC_API void bnncc_linear_destroy(bnncc_linear *linear);
BNNCC_API const char *bnncc_linear_kernel(const bnncc_linear *linear);
BNNCC_API bnncc_status bnncc_linear_run(const bnncc_linear *linear, const uint8_t *x, int64_t batch, float *y,
                                        uint8_t *bits, const bnncc_parallel *parallel, bnncc_error *error);

/* ---- Between the layers
 * ----------------------------------------------------------------------------------------------- */

/* bits[r, :] = packed (x[r, j] >= threshold) where direction is +1, (x <= threshold) where it is -1, nan_bit for NaN.
 * x: float32 [batch, channels, rows, width]; threshold_count and direction_count: 1 or `channels`. No threshold is NaN.
 * A [batch, features] tensor whose channels are its features is passed as channels = 1, rows = 1, width = features with
 * threshold_count and direction_count 1 or `features` and per_feature = 1. */
typedef struct bnncc_binarize_params {
    int64_t channels, rows, width;
    int per_feature; /* thresholds run along the last axis instead of `channels` */
    int nan_bit;
    const float *threshold;
    size_t threshold_count;
    const int8_t *direction;
    size_t direction_count;
} bnncc_binarize_params;

BNNCC_API bnncc_status bnncc_binarize(const bnncc_binarize_params *params, const float *x, int64_t batch, uint8_t *bits,
                                      bnncc_isa isa, const bnncc_parallel *parallel, bnncc_error *error);

/* y[r, j] = +-1 as float32 from packed rows; `rows` rows of `width` signs. */
BNNCC_API bnncc_status bnncc_unpack_signs(const uint8_t *bits, int64_t rows, int64_t width, float *y,
                                          const bnncc_parallel *parallel, bnncc_error *error);

/* Max-pooling of signs on bits: the maximum over the valid taps of a window where direction is +1, the minimum where it
 * is -1 (a batch-norm of negative slope between the pooling and the binarizer). Sizes as ONNX MaxPool; as in
 * onnxruntime pads must be smaller than the kernel. Where dilated taps all miss the input, the result is -direction. */
typedef struct bnncc_pool_params {
    int64_t channels, height, width;
    int64_t kernel_shape[2], strides[2], dilations[2];
    int64_t pads[4]; /* top, left, bottom, right */
    int ceil_mode;
    const int8_t *direction;
    size_t direction_count; /* 1 or `channels` */
} bnncc_pool_params;

BNNCC_API bnncc_status bnncc_pool_output_shape(const bnncc_pool_params *params, int64_t *out_height, int64_t *out_width,
                                               bnncc_error *error);
BNNCC_API bnncc_status bnncc_max_pool_signs(const bnncc_pool_params *params, const uint8_t *x, int64_t batch,
                                            uint8_t *bits, const bnncc_parallel *parallel, bnncc_error *error);

/* ---- onnxruntime
 * -------------------------------------------------------------------------------------------------------- */

struct OrtSessionOptions;
struct OrtApiBase;
struct OrtStatus;
/* What onnxruntime's register_custom_ops_library / RegisterCustomOpsLibrary_V2 look up. NULL is success, and what there
 * is to return where api_base has no API at all to make a status with: then nothing is registered, and stderr says so.
 */
BNNCC_API struct OrtStatus *RegisterCustomOps(struct OrtSessionOptions *options, const struct OrtApiBase *api_base);

#ifdef __cplusplus
}
#endif
#endif /* BNNCC_H */
