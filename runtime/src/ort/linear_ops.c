/* BinaryLinear, BinaryLinearThreshold and BinaryLinearDual: bnncc_linear as ops of onnxruntime. */
#include "op.h"

#include <inttypes.h>

typedef struct linear_op {
    bnncc_linear *linear;
    int64_t out_features, rows, row_bytes;
} linear_op;

static bnncc_status read_params(const op_node *node, bnncc_linear_params *params, int64_t *weight_bytes,
                                bnncc_error *error) {
    int64_t weight_shape[2];
    bnncc_status status = node_ints(node, "weight_shape", 1, weight_shape, 2, error);
    if (status == BNNCC_OK)
        status = node_int(node, "width", 1, SIZE_LIMIT, &params->width, error);
    if (status != BNNCC_OK)
        return status;
    if (weight_shape[1] > DOT_LIMIT)
        return fail(error, BNNCC_INVALID_ARGUMENT, "attribute 'weight_shape' makes filters of more than 2**24 weights");
    if (weight_shape[1] % params->width != 0)
        return fail(error, BNNCC_INVALID_ARGUMENT,
                    "attribute 'width' is %" PRId64 ", which does not divide the %" PRId64 " input features",
                    params->width, weight_shape[1]);
    params->out_features = weight_shape[0];
    params->rows = weight_shape[1] / params->width;
    *weight_bytes = (int64_t)divide_up((size_t)weight_shape[1], 8);
    return BNNCC_OK;
}

/* [batch, ..., row_bytes], the axes between holding `rows` rows; -1 in dims is a dimension not known yet. */
static bnncc_status match_input(const linear_op *op, const op_tensor *input, bnncc_error *error) {
    if (input->rank < 2)
        return fail(error, BNNCC_INVALID_ARGUMENT, "input 0 has %zu dimensions, not 2 or more", input->rank);
    const int64_t row_bytes = input->dims[input->rank - 1];
    if (row_bytes >= 0 && row_bytes != op->row_bytes)
        return fail(error, BNNCC_INVALID_ARGUMENT, "input 0 has rows of %" PRId64 " bytes, not %" PRId64, row_bytes,
                    op->row_bytes);
    bool overflow = false;
    size_t rows = 1;
    for (size_t i = 1; i + 1 < input->rank; i++) {
        if (input->dims[i] < 0)
            return BNNCC_OK;
        rows = times(rows, (size_t)input->dims[i], &overflow);
    }
    if (overflow || rows != (size_t)op->rows)
        return fail(error, BNNCC_INVALID_ARGUMENT, "input 0 has %zu rows of features, not %" PRId64, rows, op->rows);
    return BNNCC_OK;
}

static void destroy(void *state) {
    const linear_op *op = state;
    bnncc_linear_destroy(op->linear);
}

static bnncc_status create(const op_node *node, void *state, bnncc_error *error) {
    linear_op *op = state;
    bnncc_linear_params params = {0};
    bnncc_epilogue epilogue = {0};
    op_tensor weight = {0}, input = {0};
    int64_t weight_bytes = 0;
    bool known = false;
    bnncc_status status = read_params(node, &params, &weight_bytes, error);
    if (status != BNNCC_OK)
        return status;
    op->out_features = params.out_features;
    op->rows = params.rows;
    op->row_bytes = (int64_t)divide_up((size_t)params.width, 8);
    status = node_input_shape(node, 0, &known, &input, error);
    if (status == BNNCC_OK && known)
        status = match_input(op, &input, error);
    const int64_t weight_pattern[] = {params.out_features, weight_bytes};
    if (status == BNNCC_OK)
        status = node_constant(node, 1, "weight", weight_pattern, 2, &weight, error);
    if (status == BNNCC_OK)
        status = node_epilogue(node, 2, params.out_features, &epilogue, error);
    if (status != BNNCC_OK)
        return status;
    const size_t weight_size = (size_t)params.out_features * (size_t)weight_bytes;
    return bnncc_linear_create(&params, weight.data, weight_size, &epilogue, BNNCC_ISA_AUTO, &op->linear, error);
}

static bnncc_status run(const void *state, op_call *call, bnncc_error *error) {
    const linear_op *op = state;
    op_tensor input = {0};
    bnncc_status status = call_input(call, 0, &input, error);
    if (status == BNNCC_OK)
        status = match_input(op, &input, error);
    if (status != BNNCC_OK)
        return status;
    float *y = NULL;
    uint8_t *bits = NULL;
    const int64_t dims[] = {input.dims[0], op->out_features};
    status = call_layer_outputs(call, dims, 2, &y, &bits, error);
    if (status != BNNCC_OK || is_empty(dims, 2))
        return status;
    const bnncc_parallel parallel = call_parallel(call, &input);
    return bnncc_linear_run(op->linear, input.data, input.dims[0], y, bits, &parallel, error);
}

static void infer(op_shapes *shapes) {
    op_dim dims[RANK_LIMIT];
    size_t rank = 0;
    int64_t weight_shape[2];
    if (!shapes_input(shapes, dims, &rank) || !shapes_ints(shapes, "weight_shape", weight_shape, 2))
        return;
    dims[1] = known_dim(weight_shape[0]);
    shapes_layer_outputs(shapes, dims, 2);
}

const op_spec linear_ops[LINEAR_OP_COUNT] = {
    {.name = "BinaryLinear",
     .gives_float = true,
     .input_count = 4,
     .inputs = {ORT_ELEMENT_UINT8, ORT_ELEMENT_UINT8, ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT},
     .output_count = 1,
     .outputs = {ORT_ELEMENT_FLOAT},
     .state_size = sizeof(linear_op),
     .create = create,
     .run = run,
     .destroy = destroy,
     .infer = infer},
    {.name = "BinaryLinearThreshold",
     .gives_bits = true,
     .input_count = 3,
     .inputs = {ORT_ELEMENT_UINT8, ORT_ELEMENT_UINT8, ORT_ELEMENT_INT32},
     .output_count = 1,
     .outputs = {ORT_ELEMENT_UINT8},
     .state_size = sizeof(linear_op),
     .create = create,
     .run = run,
     .destroy = destroy,
     .infer = infer},
    {.name = "BinaryLinearDual",
     .gives_float = true,
     .gives_bits = true,
     .input_count = 5,
     .inputs = {ORT_ELEMENT_UINT8, ORT_ELEMENT_UINT8, ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT, ORT_ELEMENT_INT32},
     .output_count = 2,
     .outputs = {ORT_ELEMENT_FLOAT, ORT_ELEMENT_UINT8},
     .state_size = sizeof(linear_op),
     .create = create,
     .run = run,
     .destroy = destroy,
     .infer = infer},
};
