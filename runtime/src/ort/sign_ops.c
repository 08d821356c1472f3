/* Binarize and UnpackSigns: where floats become packed signs and where they become floats again. */
#include "op.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- Binarize ---------------------------------------------------------------------------------------------------- */

typedef struct binarize_op {
    bnncc_isa isa;
    int nan_bit;
    size_t threshold_count, direction_count;
    void *threshold, *direction; /* float, int8_t */
} binarize_op;

/* At least two dimensions, and as many channels as values unless there is one for all. */
static bnncc_status match_channels(const binarize_op *op, const op_tensor *input, bnncc_error *error) {
    if (input->rank < 2)
        return fail(error, BNNCC_INVALID_ARGUMENT, "input 0 has %zu dimensions, not 2 or more", input->rank);
    const int64_t channels = input->dims[1];
    const size_t counts[] = {op->threshold_count, op->direction_count};
    const char *names[] = {"threshold", "direction"};
    for (size_t i = 0; i < 2; i++)
        if (channels >= 0 && counts[i] != 1 && counts[i] != (size_t)channels)
            return fail(error, BNNCC_INVALID_ARGUMENT, "%s has %zu values for %" PRId64 " channels", names[i],
                        counts[i], channels);
    return BNNCC_OK;
}

static bnncc_status create_binarize(const op_node *node, void *state, bnncc_error *error) {
    binarize_op *op = state;
    op_tensor input = {0};
    int64_t nan_bit = 0;
    bool known = false;
    bnncc_status status = node_int(node, "nan_bit", 0, 1, &nan_bit, error);
    if (status == BNNCC_OK)
        status = node_values(node, 1, "threshold", &op->threshold, &op->threshold_count, error);
    if (status == BNNCC_OK)
        status = node_values(node, 2, "direction", &op->direction, &op->direction_count, error);
    if (status != BNNCC_OK)
        return status;
    op->nan_bit = (int)nan_bit;
    if (op->threshold_count == 0 || op->direction_count == 0)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s is empty", op->threshold_count ? "direction" : "threshold");
    status = check_comparison(op->threshold, op->threshold_count, op->direction, op->direction_count, error);
    if (status == BNNCC_OK)
        status = node_input_shape(node, 0, &known, &input, error);
    if (status == BNNCC_OK && known)
        status = match_channels(op, &input, error);
    return status == BNNCC_OK ? bnncc_isa_resolve(BNNCC_ISA_AUTO, &op->isa, error) : status;
}

static void destroy_binarize(void *state) {
    const binarize_op *op = state;
    free(op->threshold);
    free(op->direction);
}

static bnncc_status run_binarize(const void *state, op_call *call, bnncc_error *error) {
    const binarize_op *op = state;
    op_tensor input = {0};
    bnncc_status status = call_input(call, 0, &input, error);
    if (status == BNNCC_OK)
        status = match_channels(op, &input, error);
    if (status != BNNCC_OK)
        return status;
    const size_t last = input.rank - 1;
    int64_t dims[RANK_LIMIT];
    memcpy(dims, input.dims, input.rank * sizeof *dims);
    dims[last] = (int64_t)divide_up((size_t)dims[last], 8);
    void *bits = NULL;
    status = call_output(call, 0, dims, input.rank, &bits, error);
    if (status != BNNCC_OK || is_empty(dims, input.rank))
        return status;
    /* No dimension is 0 and the tensor exists, so the products below are no more than its element count. */
    const bool per_feature = input.rank == 2;
    int64_t rows = 1;
    for (size_t i = 2; i < last; i++)
        rows *= dims[i];
    const bnncc_binarize_params params = {
        .channels = per_feature ? 1 : input.dims[1],
        .rows = rows,
        .width = input.dims[last],
        .per_feature = per_feature,
        .nan_bit = op->nan_bit,
        .threshold = op->threshold,
        .threshold_count = op->threshold_count,
        .direction = op->direction,
        .direction_count = op->direction_count,
    };
    const bnncc_parallel parallel = call_parallel(call, &input);
    return bnncc_binarize(&params, input.data, input.dims[0], bits, op->isa, &parallel, error);
}

static void infer_binarize(op_shapes *shapes) {
    op_dim dims[RANK_LIMIT];
    size_t rank = 0;
    if (!shapes_input(shapes, dims, &rank) || rank < 2)
        return;
    dims[rank - 1] = packed_dim(&dims[rank - 1]);
    shapes_output(shapes, 0, dims, rank);
}

/* ---- UnpackSigns ------------------------------------------------------------------------------------------------- */

typedef struct unpack_op {
    int64_t width;
} unpack_op;

/* At least one dimension, the last one a row of so many bits. */
static bnncc_status match_row(const unpack_op *op, const op_tensor *input, bnncc_error *error) {
    if (input->rank < 1)
        return fail(error, BNNCC_INVALID_ARGUMENT, "input 0 is a scalar");
    const int64_t row_bytes = input->dims[input->rank - 1], wanted = (int64_t)divide_up((size_t)op->width, 8);
    if (row_bytes >= 0 && row_bytes != wanted)
        return fail(error, BNNCC_INVALID_ARGUMENT, "input 0 has rows of %" PRId64 " bytes, not %" PRId64, row_bytes,
                    wanted);
    return BNNCC_OK;
}

static bnncc_status create_unpack(const op_node *node, void *state, bnncc_error *error) {
    unpack_op *op = state;
    op_tensor input = {0};
    bool known = false;
    bnncc_status status = node_int(node, "width", 1, SIZE_LIMIT, &op->width, error);
    if (status == BNNCC_OK)
        status = node_input_shape(node, 0, &known, &input, error);
    return status == BNNCC_OK && known ? match_row(op, &input, error) : status;
}

static bnncc_status run_unpack(const void *state, op_call *call, bnncc_error *error) {
    const unpack_op *op = state;
    op_tensor input = {0};
    bnncc_status status = call_input(call, 0, &input, error);
    if (status == BNNCC_OK)
        status = match_row(op, &input, error);
    if (status != BNNCC_OK)
        return status;
    int64_t dims[RANK_LIMIT];
    memcpy(dims, input.dims, input.rank * sizeof *dims);
    dims[input.rank - 1] = op->width;
    void *signs = NULL;
    status = call_output(call, 0, dims, input.rank, &signs, error);
    if (status != BNNCC_OK || is_empty(dims, input.rank))
        return status;
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < input.rank; i++)
        rows *= dims[i];
    const bnncc_parallel parallel = call_parallel(call, &input);
    return bnncc_unpack_signs(input.data, rows, op->width, signs, &parallel, error);
}

static void infer_unpack(op_shapes *shapes) {
    op_dim dims[RANK_LIMIT];
    size_t rank = 0;
    int64_t width;
    if (!shapes_input(shapes, dims, &rank) || !shapes_int(shapes, "width", &width) || width < 1 || width > SIZE_LIMIT)
        return;
    dims[rank - 1] = known_dim(width);
    shapes_output(shapes, 0, dims, rank);
}

const op_spec sign_ops[SIGN_OP_COUNT] = {
    {.name = "Binarize",
     .gives_bits = true,
     .input_count = 3,
     .inputs = {ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT, ORT_ELEMENT_INT8},
     .output_count = 1,
     .outputs = {ORT_ELEMENT_UINT8},
     .state_size = sizeof(binarize_op),
     .create = create_binarize,
     .run = run_binarize,
     .destroy = destroy_binarize,
     .infer = infer_binarize},
    {.name = "UnpackSigns",
     .gives_float = true,
     .input_count = 1,
     .inputs = {ORT_ELEMENT_UINT8},
     .output_count = 1,
     .outputs = {ORT_ELEMENT_FLOAT},
     .state_size = sizeof(unpack_op),
     .create = create_unpack,
     .run = run_unpack,
     .infer = infer_unpack},
};
