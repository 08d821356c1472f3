/* BinaryConv, BinaryConvThreshold and BinaryConvDual: bnncc_conv as ops of onnxruntime. */
#include "op.h"
#include "tree_attribute.h"

#include <stdlib.h>

typedef struct conv_op {
    bnncc_conv *conv;
    int64_t in_channels, out_channels, row_bytes;
} conv_op;

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

static void destroy(void *state) {
    conv_op *op = state;
    bnncc_conv_destroy(op->conv);
    free(op);
}

static bnncc_status create_from(const op_node *node, conv_op *op, bnncc_error *error) {
    bnncc_conv_params params = {0};
    bnncc_epilogue epilogue = {0};
    op_tensor weight = {0}, input = {0};
    int64_t weight_bytes = 0;
    bool known = false;
    bnncc_status status = read_params(node, &params, &weight_bytes, error);
    if (status != BNNCC_OK)
        return status;
    op->in_channels = params.in_channels;
    op->out_channels = params.out_channels;
    op->row_bytes = (int64_t)divide_up((size_t)params.width, 8);
    status = node_input_shape(node, &known, &input, error);
    if (status == BNNCC_OK && known)
        status = match_input(op, &input, error);
    const int64_t weight_pattern[] = {params.out_channels, weight_bytes};
    if (status == BNNCC_OK)
        status = node_constant(node, 1, "weight", weight_pattern, 2, &weight, error);
    if (status == BNNCC_OK)
        status = node_epilogue(node, 2, params.out_channels, &epilogue, error);
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
        status = bnncc_conv_create(&params, weight.data, weight_size, &epilogue, &hints, BNNCC_ISA_AUTO, &op->conv,
                                   error);
    }
    free_tree_attribute(&read);
    free(kernel);
    int64_t out_height = 0, out_width = 0;
    if (status == BNNCC_OK && known && input.dims[2] >= 0) /* else a run tells whether the kernel fits the height */
        status = bnncc_conv_output_shape(op->conv, input.dims[2], &out_height, &out_width, error);
    return status;
}

static bnncc_status create(const op_node *node, void **state, bnncc_error *error) {
    conv_op *op = calloc(1, sizeof *op);
    if (!op)
        return fail(error, BNNCC_OUT_OF_MEMORY, "out of memory");
    const bnncc_status status = create_from(node, op, error);
    if (status == BNNCC_OK)
        *state = op;
    else
        destroy(op);
    return status;
}

static bnncc_status run(const void *state, op_call *call, bnncc_error *error) {
    const conv_op *op = state;
    const op_spec *spec = call_spec(call);
    op_tensor input = {0};
    bnncc_status status = call_input(call, &input, error);
    if (status == BNNCC_OK)
        status = match_input(op, &input, error);
    int64_t out_height = 0, out_width = 0;
    if (status == BNNCC_OK)
        status = bnncc_conv_output_shape(op->conv, input.dims[2], &out_height, &out_width, error);
    if (status != BNNCC_OK)
        return status;
    void *y = NULL, *bits = NULL;
    const int64_t y_dims[] = {input.dims[0], op->out_channels, out_height, out_width};
    if (spec->gives_float)
        status = call_output(call, 0, y_dims, 4, &y, error);
    const int64_t bits_dims[] = {y_dims[0], y_dims[1], y_dims[2], (int64_t)divide_up((size_t)out_width, 8)};
    if (status == BNNCC_OK && spec->gives_bits)
        status = call_output(call, spec->gives_float ? 1 : 0, bits_dims, 4, &bits, error);
    if (status != BNNCC_OK || is_empty(y_dims, 4))
        return status;
    const bnncc_parallel parallel = call_parallel(call);
    return bnncc_conv_run(op->conv, input.data, input.dims[0], input.dims[2], y, bits, &parallel, error);
}

static void infer(op_shapes *shapes) {
    const op_spec *spec = shapes_spec(shapes);
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
    if (spec->gives_float)
        shapes_output(shapes, 0, dims, 4);
    dims[3] = packed_dim(&dims[3]);
    if (spec->gives_bits)
        shapes_output(shapes, spec->gives_float ? 1 : 0, dims, 4);
}

const op_spec conv_ops[CONV_OP_COUNT] = {
    {.name = "BinaryConv",
     .gives_float = true,
     .input_count = 4,
     .inputs = {ORT_ELEMENT_UINT8, ORT_ELEMENT_UINT8, ORT_ELEMENT_FLOAT, ORT_ELEMENT_FLOAT},
     .output_count = 1,
     .outputs = {ORT_ELEMENT_FLOAT},
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
     .create = create,
     .run = run,
     .destroy = destroy,
     .infer = infer},
};
