/* BinaryConv, BinaryConvThreshold, BinaryConvDual, BinaryConvSteps and BinaryConvStepsDual: bnncc_conv as ops of
 * onnxruntime. Inputs: packed signs, weight, then scale and shift, or threshold, or all three; with steps, scale and
 * shift, the steps' operands, the residual, and for bits threshold and direction. */
#include "op.h"
#include "tree_attribute.h"

#include <stdlib.h>

typedef struct conv_op {
    bnncc_conv *conv;
    int64_t in_channels, out_channels, row_bytes;
    int64_t window_height; /* input rows of one window */
    bool has_residual;
} conv_op;

enum { INPUT_WEIGHT = 1, INPUT_EPILOGUE, INPUT_OPERANDS = 4, INPUT_RESIDUAL, INPUT_THRESHOLD, INPUT_DIRECTION };

static bnncc_status read_params(const op_node *node, bnncc_conv_params *params, int64_t *weight_bytes,
                                bnncc_error *error) {
    int64_t weight_shape[4];
    bnncc_status status = node_ints(node, "weight_shape", 1, weight_shape, 4, error);
    if (status == BNNCC_OK)
        status = node_int(node, "width", 1, SIZE_LIMIT, &params->width, error);
    if (status == BNNCC_OK)
        status = node_ints(node, "strides", 1, params->strides, 2, error);
    if (status == BNNCC_OK)
        status = node_ints(node, "pads", 0, params->pads, 4, error);
    if (status == BNNCC_OK)
        status = node_ints(node, "dilations", 1, params->dilations, 2, error);
    if (status == BNNCC_OK)
        status = node_int(node, "group", 1, SIZE_LIMIT, &params->group, error);
    if (status == BNNCC_OK)
        status = node_int(node, "pad_value", -1, 1, &params->pad_value, error);
    if (status != BNNCC_OK)
        return status;
    /* Each is at most 31 bits, so a product of two cannot overflow. */
    const int64_t in_channels = weight_shape[1] * params->group;
    const int64_t kernel_size = weight_shape[2] * weight_shape[3];
    if (in_channels > SIZE_LIMIT)
        return fail(error, BNNCC_INVALID_ARGUMENT, "weight_shape and group make too many input channels");
    if (kernel_size > DOT_LIMIT || weight_shape[1] > DOT_LIMIT || weight_shape[1] * kernel_size > DOT_LIMIT)
        return fail(error, BNNCC_INVALID_ARGUMENT, "attribute 'weight_shape' makes filters of more than 2**24 weights");
    *weight_bytes = (int64_t)divide_up((size_t)(weight_shape[1] * kernel_size), 8);
    params->out_channels = weight_shape[0];
    params->in_channels = in_channels;
    params->kernel_shape[0] = weight_shape[2];
    params->kernel_shape[1] = weight_shape[3];
    return BNNCC_OK;
}

static bnncc_status match_input(const conv_op *op, const op_tensor *input, bnncc_error *error) {
    const int64_t pattern[] = {ANY, op->in_channels, ANY, op->row_bytes};
    return match_dims("input 0", input->dims, input->rank, pattern, 4, error);
}

/* Reads the attributes steps (numbers of bnncc_step) and nan_bit, and the inputs that go with steps. What they say is
 * for bnncc_conv_create to check. Valid during creation only. */
static bnncc_status read_steps(const op_node *node, int32_t kinds[BNNCC_STEP_LIMIT], bnncc_steps *steps,
                               bnncc_error *error) {
    int64_t values[BNNCC_STEP_LIMIT], nan_bit = 0;
    size_t count = 0;
    bnncc_status status = node_int_list(node, "steps", 0, values, BNNCC_STEP_LIMIT, &count, error);
    if (status != BNNCC_OK)
        return status;
    for (size_t i = 0; i < count; i++)
        kinds[i] = (int32_t)values[i];
    const int64_t operands_pattern[] = {(int64_t)count, ANY}, any_count[] = {ANY};
    op_tensor operands = {0}, threshold = {0}, direction = {0};
    status = node_constant(node, INPUT_OPERANDS, "operands", operands_pattern, 2, &operands, error);
    if (status != BNNCC_OK)
        return status;
    if (operands.dims[1] == 0)
        return fail(error, BNNCC_INVALID_ARGUMENT, "operands are empty");
    *steps = (bnncc_steps){
        .kinds = kinds, .count = count, .operands = operands.data, .operand_count = (size_t)operands.dims[1]};
    if (!node_spec(node)->gives_bits)
        return BNNCC_OK;
    status = node_int(node, "nan_bit", 0, 1, &nan_bit, error);
    if (status == BNNCC_OK)
        status = node_constant(node, INPUT_THRESHOLD, "threshold", any_count, 1, &threshold, error);
    if (status == BNNCC_OK)
        status = node_constant(node, INPUT_DIRECTION, "direction", any_count, 1, &direction, error);
    if (status != BNNCC_OK)
        return status;
    if (threshold.dims[0] == 0 || direction.dims[0] == 0)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s is empty", threshold.dims[0] ? "direction" : "threshold");
    steps->threshold = threshold.data;
    steps->threshold_count = (size_t)threshold.dims[0];
    steps->direction = direction.data;
    steps->direction_count = (size_t)direction.dims[0];
    steps->nan_bit = (int)nan_bit;
    return BNNCC_OK;
}

static bool adds_residual(const bnncc_steps *steps) {
    for (size_t i = 0; i < steps->count; i++)
        if (steps->kinds[i] == BNNCC_STEP_RESIDUAL)
            return true;
    return false;
}

static void destroy(void *state) {
    const conv_op *op = state;
    bnncc_conv_destroy(op->conv);
}

/* What is declared of the residual and of the input fits what the convolution will give; what is not declared (-1) is
 * left to a run. */
static bnncc_status check_shapes(const op_node *node, const conv_op *op, int64_t batch, int64_t height,
                                 bnncc_error *error) {
    int64_t out_height = 0, out_width = 0;
    /* Any height that takes the window tells the width. */
    bnncc_status status =
        bnncc_conv_output_shape(op->conv, height >= 0 ? height : op->window_height, &out_height, &out_width, error);
    if (status != BNNCC_OK || !op->has_residual)
        return status;
    if (height < 0)
        out_height = ANY;
    op_tensor residual = {0};
    bool known = false;
    status = node_input_shape(node, INPUT_RESIDUAL, &known, &residual, error);
    const int64_t pattern[] = {batch, op->out_channels, out_height, out_width};
    return status == BNNCC_OK && known ? match_dims("residual", residual.dims, residual.rank, pattern, 4, error)
                                       : status;
}

static bnncc_status create(const op_node *node, void *state, bnncc_error *error) {
    conv_op *op = state;
    bnncc_conv_params params = {0};
    bnncc_epilogue epilogue = {0};
    bnncc_steps steps = {0};
    int32_t kinds[BNNCC_STEP_LIMIT];
    op_tensor weight = {0}, input = {.dims = {ANY, ANY, ANY, ANY}};
    int64_t weight_bytes = 0;
    bool known = false;
    bnncc_status status = read_params(node, &params, &weight_bytes, error);
    if (status != BNNCC_OK)
        return status;
    op->in_channels = params.in_channels;
    op->out_channels = params.out_channels;
    op->row_bytes = (int64_t)divide_up((size_t)params.width, 8);
    op->window_height = (int64_t)smaller((size_t)((params.kernel_shape[0] - 1) * params.dilations[0] + 1), SIZE_LIMIT);
    status = node_input_shape(node, 0, &known, &input, error);
    if (status == BNNCC_OK && known)
        status = match_input(op, &input, error);
    const int64_t weight_pattern[] = {params.out_channels, weight_bytes};
    if (status == BNNCC_OK)
        status = node_constant(node, INPUT_WEIGHT, "weight", weight_pattern, 2, &weight, error);
    if (status == BNNCC_OK)
        status = node_epilogue(node, INPUT_EPILOGUE, params.out_channels, &epilogue, error);
    if (status == BNNCC_OK && node_spec(node)->has_steps) {
        status = read_steps(node, kinds, &steps, error);
        op->has_residual = adds_residual(&steps);
        epilogue.steps = &steps;
    }
    if (status != BNNCC_OK)
        return status;
    const size_t weight_size = (size_t)params.out_channels * (size_t)weight_bytes;
    tree_attribute read = {0};
    char *kernel = NULL;
    size_t kernel_length = 0;
    status = read_tree_attribute(node, &params, &read, error);
    if (status == BNNCC_OK)
        status = node_optional_text(node, "kernel", &kernel, &kernel_length, error);
    if (status == BNNCC_OK) {
        const bnncc_filter_tree tree = {read.group_nodes, read.parents, read.node_count, read.flipped};
        const bnncc_conv_hints hints = {.tree = read.group_nodes ? &tree : NULL, .kernel = kernel};
        status =
            bnncc_conv_create(&params, weight.data, weight_size, &epilogue, &hints, BNNCC_ISA_AUTO, &op->conv, error);
    }
    free_tree_attribute(&read);
    free(kernel);
    return status == BNNCC_OK ? check_shapes(node, op, input.dims[0], input.dims[2], error) : status;
}

static bnncc_status run(const void *state, op_call *call, bnncc_error *error) {
    const conv_op *op = state;
    op_tensor input = {0}, residual = {0};
    bnncc_status status = call_input(call, 0, &input, error);
    if (status == BNNCC_OK)
        status = match_input(op, &input, error);
    int64_t out_height = 0, out_width = 0;
    if (status == BNNCC_OK)
        status = bnncc_conv_output_shape(op->conv, input.dims[2], &out_height, &out_width, error);
    const int64_t dims[] = {input.dims[0], op->out_channels, out_height, out_width};
    if (status == BNNCC_OK && op->has_residual) {
        status = call_input(call, INPUT_RESIDUAL, &residual, error);
        if (status == BNNCC_OK)
            status = match_dims("residual", residual.dims, residual.rank, dims, 4, error);
    }
    float *y = NULL;
    uint8_t *bits = NULL;
    if (status == BNNCC_OK)
        status = call_layer_outputs(call, dims, 4, &y, &bits, error);
    if (status != BNNCC_OK || is_empty(dims, 4))
        return status;
    const bnncc_parallel parallel = call_parallel(call, &input);
    return bnncc_conv_run(op->conv, input.data, residual.data, input.dims[0], input.dims[2], y, bits, &parallel, error);
}

/* The float output may take the residual's place: each pixel of that is read before it is written. */
static size_t residual_inplace(int **inputs, int **outputs) {
    *inputs = malloc(sizeof **inputs);
    *outputs = malloc(sizeof **outputs);
    if (!*inputs || !*outputs)
        return 0;
    **inputs = INPUT_RESIDUAL;
    **outputs = 0;
    return 1;
}

static void infer(op_shapes *shapes) {
    op_dim dims[RANK_LIMIT];
    size_t rank = 0;
    int64_t weight_shape[4], width, strides[2], pads[4], dilations[2];
    if (!shapes_input(shapes, dims, &rank) || rank != 4 || !shapes_ints(shapes, "weight_shape", weight_shape, 4) ||
        !shapes_int(shapes, "width", &width) || !shapes_ints(shapes, "strides", strides, 2) ||
        !shapes_ints(shapes, "pads", pads, 4) || !shapes_ints(shapes, "dilations", dilations, 2))
        return;
    for (size_t i = 0; i < 4; i++)
        if (pads[i] < 0 || pads[i] > SIZE_LIMIT)
            return;
    const op_dim in_width = known_dim(width);
    dims[1] = known_dim(weight_shape[0]);
    dims[2] = window_positions(&dims[2], weight_shape[2], strides[0], dilations[0], pads[0] + pads[2]);
    dims[3] = window_positions(&in_width, weight_shape[3], strides[1], dilations[1], pads[1] + pads[3]);
    shapes_layer_outputs(shapes, dims, 4);
}

const op_spec conv_ops[CONV_OP_COUNT] = {
    {.name = "BinaryConv",
     .gives_float = true,
     .input_count = 4,
     .inputs = {ORT_ELEMENT_UINT8, ORT_ELEMENT_UINT8, ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT},
     .output_count = 1,
     .outputs = {ORT_ELEMENT_FLOAT},
     .state_size = sizeof(conv_op),
     .create = create,
     .run = run,
     .destroy = destroy,
     .infer = infer},
    {.name = "BinaryConvThreshold",
     .gives_bits = true,
     .input_count = 3,
     .inputs = {ORT_ELEMENT_UINT8, ORT_ELEMENT_UINT8, ORT_ELEMENT_INT32},
     .output_count = 1,
     .outputs = {ORT_ELEMENT_UINT8},
     .state_size = sizeof(conv_op),
     .create = create,
     .run = run,
     .destroy = destroy,
     .infer = infer},
    {.name = "BinaryConvDual",
     .gives_float = true,
     .gives_bits = true,
     .input_count = 5,
     .inputs = {ORT_ELEMENT_UINT8, ORT_ELEMENT_UINT8, ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT, ORT_ELEMENT_INT32},
     .output_count = 2,
     .outputs = {ORT_ELEMENT_FLOAT, ORT_ELEMENT_UINT8},
     .state_size = sizeof(conv_op),
     .create = create,
     .run = run,
     .destroy = destroy,
     .infer = infer},
    {.name = "BinaryConvSteps",
     .gives_float = true,
     .has_steps = true,
     .input_count = 6,
     .inputs = {ORT_ELEMENT_UINT8, ORT_ELEMENT_UINT8, ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT,
                ORT_ELEMENT_FLOAT},
     .output_count = 1,
     .outputs = {ORT_ELEMENT_FLOAT},
     .state_size = sizeof(conv_op),
     .create = create,
     .run = run,
     .destroy = destroy,
     .may_inplace = residual_inplace,
     .infer = infer},
    {.name = "BinaryConvStepsDual",
     .gives_float = true,
     .gives_bits = true,
     .has_steps = true,
     .input_count = 8,
     .inputs = {ORT_ELEMENT_UINT8, ORT_ELEMENT_UINT8, ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT,
                ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT, ORT_ELEMENT_INT8},
     .output_count = 2,
     .outputs = {ORT_ELEMENT_FLOAT, ORT_ELEMENT_UINT8},
     .state_size = sizeof(conv_op),
     .create = create,
     .run = run,
     .destroy = destroy,
     .may_inplace = residual_inplace,
     .infer = infer},
};
