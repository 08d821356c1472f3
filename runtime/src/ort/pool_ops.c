/* MaxPoolSigns: bnncc_max_pool_signs as an op of onnxruntime. */
#include "op.h"

#include <stdlib.h>

typedef struct pool_op {
    bnncc_pool_params params; /* but channels and height, which come with each input */
    int64_t row_bytes;
    void *directions; /* params.direction */
} pool_op;

static bnncc_status read_params(const op_node *node, bnncc_pool_params *params, bnncc_error *error) {
    int64_t ceil_mode = 0;
    bnncc_status status = node_int(node, "width", 1, SIZE_LIMIT, &params->width, error);
    if (status == BNNCC_OK)
        status = node_ints(node, "kernel_shape", 1, params->kernel_shape, 2, error);
    if (status == BNNCC_OK)
        status = node_ints(node, "strides", 1, params->strides, 2, error);
    if (status == BNNCC_OK)
        status = node_ints(node, "pads", 0, params->pads, 4, error);
    if (status == BNNCC_OK)
        status = node_ints(node, "dilations", 1, params->dilations, 2, error);
    if (status == BNNCC_OK)
        status = node_int(node, "ceil_mode", 0, 1, &ceil_mode, error);
    params->ceil_mode = (int)ceil_mode;
    return status;
}

/* [batch, channels, height, row_bytes], with as many channels as directions unless there is one for all. */
static bnncc_status match_input(const pool_op *op, const op_tensor *input, bnncc_error *error) {
    const int64_t directions = (int64_t)op->params.direction_count;
    const int64_t pattern[] = {ANY, directions == 1 ? ANY : directions, ANY, op->row_bytes};
    return match_dims("input 0", input->dims, input->rank, pattern, 4, error);
}

/* The window, tried on an input as high as the window: what is wrong with it is found before the first run. */
static bnncc_status check_window(const bnncc_pool_params *params, bnncc_error *error) {
    bnncc_pool_params probe = *params;
    int64_t out_height, out_width;
    probe.channels = (int64_t)probe.direction_count;
    probe.height = (probe.kernel_shape[0] - 1) * probe.dilations[0] + 1;
    return bnncc_pool_output_shape(&probe, &out_height, &out_width, error);
}

static bnncc_status create(const op_node *node, void *state, bnncc_error *error) {
    pool_op *op = state;
    bnncc_pool_params *params = &op->params;
    op_tensor input = {0};
    bool known = false;
    bnncc_status status = read_params(node, params, error);
    if (status == BNNCC_OK)
        status = node_values(node, 1, "direction", &op->directions, &params->direction_count, error);
    if (status == BNNCC_OK)
        status = node_input_shape(node, 0, &known, &input, error);
    if (status != BNNCC_OK)
        return status;
    if (params->direction_count == 0)
        return fail(error, BNNCC_INVALID_ARGUMENT, "direction is empty");
    params->direction = op->directions;
    op->row_bytes = (int64_t)divide_up((size_t)params->width, 8);
    status = check_directions(params->direction, params->direction_count, error);
    if (status == BNNCC_OK)
        status = check_window(params, error);
    return status == BNNCC_OK && known ? match_input(op, &input, error) : status;
}

static void destroy(void *state) {
    const pool_op *op = state;
    free(op->directions);
}

static bnncc_status run(const void *state, op_call *call, bnncc_error *error) {
    const pool_op *op = state;
    op_tensor input = {0};
    bnncc_status status = call_input(call, 0, &input, error);
    if (status == BNNCC_OK)
        status = match_input(op, &input, error);
    if (status != BNNCC_OK)
        return status;
    bnncc_pool_params params = op->params;
    params.channels = input.dims[1];
    params.height = input.dims[2];
    int64_t out_height = 0, out_width = 0;
    status = bnncc_pool_output_shape(&params, &out_height, &out_width, error);
    if (status != BNNCC_OK)
        return status;
    void *bits = NULL;
    const int64_t dims[] = {input.dims[0], params.channels, out_height, (int64_t)divide_up((size_t)out_width, 8)};
    status = call_output(call, 0, dims, 4, &bits, error);
    if (status != BNNCC_OK || is_empty(dims, 4))
        return status;
    const bnncc_parallel parallel = call_parallel(call, &input);
    return bnncc_max_pool_signs(&params, input.data, input.dims[0], bits, &parallel, error);
}

static void infer(op_shapes *shapes) {
    op_dim dims[RANK_LIMIT];
    size_t rank = 0;
    int64_t width, kernel[2], strides[2], pads[4], dilations[2], ceil_mode;
    if (!shapes_input(shapes, dims, &rank) || rank != 4 || !shapes_int(shapes, "width", &width) ||
        !shapes_ints(shapes, "kernel_shape", kernel, 2) || !shapes_ints(shapes, "strides", strides, 2) ||
        !shapes_ints(shapes, "pads", pads, 4) || !shapes_ints(shapes, "dilations", dilations, 2) ||
        !shapes_int(shapes, "ceil_mode", &ceil_mode))
        return;
    const bool fixed = dims[2].value >= 0;
    const int8_t up = 1;
    bnncc_pool_params params = {.channels = 1,
                                .height = fixed ? dims[2].value : 1,
                                .width = width,
                                .kernel_shape = {kernel[0], kernel[1]},
                                .strides = {strides[0], strides[1]},
                                .dilations = {dilations[0], dilations[1]},
                                .pads = {pads[0], pads[1], pads[2], pads[3]},
                                .ceil_mode = ceil_mode != 0,
                                .direction = &up,
                                .direction_count = 1};
    if (!fixed) {
        /* The width does not depend on the height: any height that takes the window will tell it. */
        if (kernel[0] < 1 || kernel[0] > SIZE_LIMIT || dilations[0] < 1 || dilations[0] > SIZE_LIMIT ||
            (strides[0] != 1 && ceil_mode))
            return;
        params.height = (kernel[0] - 1) * dilations[0] + 1;
    }
    int64_t out_height = 0, out_width = 0;
    if (bnncc_pool_output_shape(&params, &out_height, &out_width, NULL) != BNNCC_OK)
        return;
    dims[2] = fixed ? known_dim(out_height)
                    : window_positions(&dims[2], kernel[0], strides[0], dilations[0], pads[0] + pads[2]);
    const op_dim wide = known_dim(out_width);
    dims[3] = packed_dim(&wide);
    shapes_output(shapes, 0, dims, 4);
}

const op_spec pool_ops[POOL_OP_COUNT] = {
    {.name = "MaxPoolSigns",
     .gives_bits = true,
     .input_count = 2,
     .inputs = {ORT_ELEMENT_UINT8, ORT_ELEMENT_INT8},
     .output_count = 1,
     .outputs = {ORT_ELEMENT_UINT8},
     .state_size = sizeof(pool_op),
     .create = create,
     .run = run,
     .destroy = destroy,
     .infer = infer},
};
