/* Between onnxruntime and the ops: reading nodes, tensors and shapes, and naming the node in every error. */
#include "op.h"
#include "threads.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LABEL_LIMIT = 160, WHAT_LIMIT = 24 };

struct op_node {
    const ort_api *api;
    const struct OrtKernelInfo *info;
    const op_spec *spec;
};

struct op_call {
    const ort_api *api;
    struct OrtKernelContext *context;
    const op_spec *spec;
    threads_seen *threads;
    size_t size;                        /* of the input, which the work goes with */
    struct OrtStatus *parallel_failure; /* of the hook, which can return none */
};

struct op_shapes {
    const ort_api *api;
    const op_spec *spec;
    struct OrtShapeInferContext *context;
};

/* A kernel as onnxruntime holds it. */
typedef struct op_kernel {
    const ort_api *api;
    const op_spec *spec;
    char label[LABEL_LIMIT]; /* "node 'conv3' (BinaryConv)" */
    threads_seen threads;
    void *state; /* in one piece of memory with this */
} op_kernel;

/* ---- Errors --------------------------------------------------------------------------------------------------------
 */

/* Takes over onnxruntime's status: BNNCC_OK for none, else its message after `what`. */
static bnncc_status check(const ort_api *api, struct OrtStatus *status, const char *what, bnncc_error *error) {
    if (!status)
        return BNNCC_OK;
    fail(error, BNNCC_INVALID_ARGUMENT, "%s: %s", what, api->get_error_message(status));
    api->release_status(status);
    return BNNCC_INVALID_ARGUMENT;
}

/* Whether onnxruntime did what it was asked; for questions whose failure is an answer. */
static bool succeeded(const ort_api *api, struct OrtStatus *status) {
    if (status)
        api->release_status(status);
    return !status;
}

static struct OrtStatus *node_error(const ort_api *api, bnncc_status status, const char *label,
                                    const bnncc_error *error) {
    char message[LABEL_LIMIT + sizeof error->message + 16];
    snprintf(message, sizeof message, "bnncc: %s: %s", label, error->message);
    return api->create_status(status == BNNCC_INVALID_ARGUMENT ? ORT_CODE_INVALID_ARGUMENT : ORT_CODE_FAIL, message);
}

/* How errors call the node: by its name, else by its first output's, which every node has. */
static void write_label(const op_node *node, char label[LABEL_LIMIT]) {
    char name[LABEL_LIMIT] = "";
    const char *kind = "node";
    size_t size = sizeof name;
    const bool named = succeeded(node->api, node->api->kernel_info_get_node_name(node->info, name, &size));
    if (named && !name[0]) {
        kind = "node of output";
        size = sizeof name;
        if (!succeeded(node->api, node->api->kernel_info_get_output_name(node->info, 0, name, &size)))
            name[0] = '\0';
    }
    /* A name that did not fit is not given in part; nobody reads names that long. */
    const char *shown = name[0] ? name : "(long name)";
    snprintf(label, LABEL_LIMIT, "%s '%.*s' (%s)", kind, LABEL_LIMIT - 64, shown, node->spec->name);
}

/* ---- Tensors
 * --------------------------------------------------------------------------------------------------------- */

/* "input 5" */
static void write_input(size_t index, char what[WHAT_LIMIT]) { snprintf(what, WHAT_LIMIT, "input %zu", index); }

static size_t element_size(ort_element element) {
    return element == ORT_ELEMENT_FLOAT || element == ORT_ELEMENT_INT32 ? 4 : 1;
}

static bnncc_status read_shape(const ort_api *api, const struct OrtTensorTypeAndShapeInfo *info, const char *what,
                               int *element, op_tensor *tensor, bnncc_error *error) {
    bnncc_status status = check(api, api->get_tensor_element_type(info, element), what, error);
    if (status == BNNCC_OK)
        status = check(api, api->get_dimensions_count(info, &tensor->rank), what, error);
    if (status != BNNCC_OK)
        return status;
    if (tensor->rank > RANK_LIMIT)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s has %zu dimensions, more than %d", what, tensor->rank,
                    RANK_LIMIT);
    return check(api, api->get_dimensions(info, tensor->dims, tensor->rank), what, error);
}

static bnncc_status read_tensor(const ort_api *api, const struct OrtValue *value, const char *what, ort_element wanted,
                                op_tensor *tensor, bnncc_error *error) {
    struct OrtTensorTypeAndShapeInfo *info = NULL;
    int element = 0;
    bnncc_status status = check(api, api->get_tensor_type_and_shape(value, &info), what, error);
    if (status != BNNCC_OK)
        return status;
    status = read_shape(api, info, what, &element, tensor, error);
    api->release_tensor_type_and_shape_info(info);
    if (status != BNNCC_OK)
        return status;
    if (element != (int)wanted)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s has element type %d, not %d", what, element, (int)wanted);
    void *data = NULL;
    /* The ABI has one function for reading and writing; nothing is written through this pointer. */
    status = check(api, api->get_tensor_mutable_data((struct OrtValue *)value, &data), what, error);
    tensor->data = data;
    return status;
}

/* "[3, ?, 4]" */
static void write_dims(const int64_t *dims, size_t rank, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (size_t i = 0; i < rank && used < size; i++) {
        const char *comma = i ? ", " : "";
        used += (size_t)(dims[i] < 0 ? snprintf(text + used, size - used, "%s?", comma)
                                     : snprintf(text + used, size - used, "%s%" PRId64, comma, dims[i]));
    }
    if (used < size)
        snprintf(text + used, size - used, "]");
}

bnncc_status match_dims(const char *what, const int64_t *dims, size_t rank, const int64_t *pattern, size_t pattern_rank,
                        bnncc_error *error) {
    bool fits = rank == pattern_rank;
    for (size_t i = 0; fits && i < rank; i++)
        fits = dims[i] < 0 || pattern[i] == ANY || dims[i] == pattern[i];
    if (fits)
        return BNNCC_OK;
    char have[80], want[80];
    write_dims(dims, rank, have, sizeof have);
    write_dims(pattern, pattern_rank, want, sizeof want);
    return fail(error, BNNCC_INVALID_ARGUMENT, "%s has shape %s, not %s", what, have, want);
}

bool is_empty(const int64_t *dims, size_t rank) {
    for (size_t i = 0; i < rank; i++)
        if (dims[i] == 0)
            return true;
    return false;
}

/* ---- While a kernel is created -------------------------------------------------------------------------------------
 */

const op_spec *node_spec(const op_node *node) { return node->spec; }

static bnncc_status in_range(const char *name, int64_t value, int64_t low, int64_t high, bnncc_error *error) {
    if (value < low || value > high)
        return fail(error, BNNCC_INVALID_ARGUMENT, "attribute '%s' is %" PRId64 ", outside [%" PRId64 ", %" PRId64 "]",
                    name, value, low, high);
    return BNNCC_OK;
}

bnncc_status node_int(const op_node *node, const char *name, int64_t low, int64_t high, int64_t *value,
                      bnncc_error *error) {
    char what[64];
    snprintf(what, sizeof what, "attribute '%s'", name);
    const bnncc_status status =
        check(node->api, node->api->kernel_info_get_attribute_int64(node->info, name, value), what, error);
    return status == BNNCC_OK ? in_range(name, *value, low, high, error) : status;
}

/* `least` to `most` of them. */
static bnncc_status read_ints(const op_node *node, const char *name, int64_t low, int64_t *values, size_t least,
                              size_t most, size_t *count, bnncc_error *error) {
    char what[64];
    snprintf(what, sizeof what, "attribute '%s'", name);
    *count = 0;
    bnncc_status status =
        check(node->api, node->api->kernel_info_get_attribute_array_int64(node->info, name, NULL, count), what, error);
    if (status == BNNCC_OK && least == most && *count != most)
        return fail(error, BNNCC_INVALID_ARGUMENT, "attribute '%s' has %zu values, not %zu", name, *count, most);
    if (status == BNNCC_OK && (*count < least || *count > most))
        return fail(error, BNNCC_INVALID_ARGUMENT, "attribute '%s' has %zu values, not %zu to %zu", name, *count, least,
                    most);
    if (status == BNNCC_OK)
        status = check(node->api, node->api->kernel_info_get_attribute_array_int64(node->info, name, values, count),
                       what, error);
    for (size_t i = 0; status == BNNCC_OK && i < *count; i++)
        status = in_range(name, values[i], low, SIZE_LIMIT, error);
    return status;
}

bnncc_status node_ints(const op_node *node, const char *name, int64_t low, int64_t *values, size_t count,
                       bnncc_error *error) {
    size_t found = 0;
    return read_ints(node, name, low, values, count, count, &found, error);
}

bnncc_status node_int_list(const op_node *node, const char *name, int64_t low, int64_t *values, size_t most,
                           size_t *count, bnncc_error *error) {
    return read_ints(node, name, low, values, 1, most, count, error);
}

bnncc_status node_optional_text(const op_node *node, const char *name, char **text, size_t *length,
                                bnncc_error *error) {
    size_t size = 0; /* with the zero at the end */
    *text = NULL;
    *length = 0;
    if (!succeeded(node->api, node->api->kernel_info_get_attribute_string(node->info, name, NULL, &size)) || size == 0)
        return BNNCC_OK;
    char what[64];
    snprintf(what, sizeof what, "attribute '%s'", name);
    char *found = allocate(size, 1);
    if (!found)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for %s", what);
    const bnncc_status status =
        check(node->api, node->api->kernel_info_get_attribute_string(node->info, name, found, &size), what, error);
    if (status != BNNCC_OK) {
        free(found);
        return status;
    }
    *text = found;
    *length = size - 1;
    return BNNCC_OK;
}

bnncc_status node_constant(const op_node *node, size_t index, const char *what, const int64_t *pattern,
                           size_t pattern_rank, op_tensor *tensor, bnncc_error *error) {
    int is_constant = 0;
    const struct OrtValue *value = NULL;
    bnncc_status status =
        check(node->api, node->api->kernel_info_get_constant_input_tensor(node->info, index, &is_constant, &value),
              what, error);
    if (status != BNNCC_OK)
        return status;
    if (!is_constant || !value)
        return fail(error, BNNCC_INVALID_ARGUMENT, "input %zu (%s) is not an initializer", index, what);
    status = read_tensor(node->api, value, what, node->spec->inputs[index], tensor, error);
    if (status != BNNCC_OK)
        return status;
    return match_dims(what, tensor->dims, tensor->rank, pattern, pattern_rank, error);
}

bnncc_status node_values(const op_node *node, size_t index, const char *what, void **values, size_t *count,
                         bnncc_error *error) {
    const int64_t any_count[] = {ANY};
    op_tensor tensor = {0};
    const bnncc_status status = node_constant(node, index, what, any_count, 1, &tensor, error);
    if (status != BNNCC_OK)
        return status;
    const size_t size = element_size(node->spec->inputs[index]);
    *count = (size_t)tensor.dims[0];
    *values = allocate(*count, size);
    if (!*values)
        return fail(error, BNNCC_OUT_OF_MEMORY, "no memory for %s", what);
    if (*count)
        memcpy(*values, tensor.data, *count * size);
    return BNNCC_OK;
}

bnncc_status node_input_shape(const op_node *node, size_t index, bool *known, op_tensor *shape, bnncc_error *error) {
    const ort_api *api = node->api;
    struct OrtTypeInfo *type = NULL;
    const struct OrtTensorTypeAndShapeInfo *info = NULL; /* owned by `type` */
    int element = 0;
    char what[WHAT_LIMIT];
    write_input(index, what);
    *known = false;
    if (!succeeded(api, api->kernel_info_get_input_type_info(node->info, index, &type)))
        return BNNCC_OK;
    bnncc_status status = check(api, api->cast_type_info_to_tensor_info(type, &info), what, error);
    if (status == BNNCC_OK && !info)
        status = fail(error, BNNCC_INVALID_ARGUMENT, "%s is not a tensor", what);
    if (status == BNNCC_OK)
        status = read_shape(api, info, what, &element, shape, error);
    api->release_type_info(type);
    /* An unknown rank is told as 0; no op takes a scalar, so a real one is refused when it arrives. */
    *known = status == BNNCC_OK && shape->rank > 0;
    return status;
}

bnncc_status node_epilogue(const op_node *node, size_t first, int64_t channels, bnncc_epilogue *epilogue,
                           bnncc_error *error) {
    const int64_t any_count[] = {ANY}, per_channel[] = {channels};
    bnncc_status status = BNNCC_OK;
    op_tensor tensor = {0};
    size_t index = first;
    if (node->spec->gives_float) {
        status = node_constant(node, index++, "scale", any_count, 1, &tensor, error);
        if (status != BNNCC_OK)
            return status;
        epilogue->scale = tensor.data;
        epilogue->scale_count = (size_t)tensor.dims[0];
        status = node_constant(node, index++, "shift", any_count, 1, &tensor, error);
        if (status != BNNCC_OK)
            return status;
        epilogue->shift = tensor.data;
        epilogue->shift_count = (size_t)tensor.dims[0];
    }
    if (node->spec->gives_bits && !node->spec->has_steps) {
        status = node_constant(node, index, "threshold", per_channel, 1, &tensor, error);
        if (status != BNNCC_OK)
            return status;
        epilogue->threshold = tensor.data;
        epilogue->threshold_count = (size_t)tensor.dims[0];
    }
    return BNNCC_OK;
}

/* ---- While it runs
 * ---------------------------------------------------------------------------------------------------- */

bnncc_status call_input(const op_call *call, size_t index, op_tensor *tensor, bnncc_error *error) {
    const struct OrtValue *value = NULL;
    char what[WHAT_LIMIT];
    write_input(index, what);
    const bnncc_status status =
        check(call->api, call->api->kernel_context_get_input(call->context, index, &value), what, error);
    if (status != BNNCC_OK)
        return status;
    if (!value)
        return fail(error, BNNCC_INVALID_ARGUMENT, "%s is missing", what);
    return read_tensor(call->api, value, what, call->spec->inputs[index], tensor, error);
}

bnncc_status call_output(const op_call *call, size_t index, const int64_t *dims, size_t rank, void **data,
                         bnncc_error *error) {
    bool overflow = false;
    size_t bytes = element_size(call->spec->outputs[index]);
    for (size_t i = 0; i < rank; i++)
        bytes = times(bytes, (size_t)dims[i], &overflow);
    if (overflow || bytes > PTRDIFF_MAX)
        return fail(error, BNNCC_OUT_OF_MEMORY, "output %zu is too large to address", index);
    struct OrtValue *value = NULL;
    const bnncc_status status = check(
        call->api, call->api->kernel_context_get_output(call->context, index, dims, rank, &value), "output", error);
    if (status != BNNCC_OK)
        return status;
    if (!value)
        return fail(error, BNNCC_INVALID_ARGUMENT, "output %zu is missing", index);
    return check(call->api, call->api->get_tensor_mutable_data(value, data), "output", error);
}

bnncc_status call_layer_outputs(const op_call *call, const int64_t *dims, size_t rank, float **y, uint8_t **bits,
                                bnncc_error *error) {
    void *floats = NULL, *signs = NULL;
    int64_t packed[RANK_LIMIT];
    memcpy(packed, dims, rank * sizeof *dims);
    packed[rank - 1] = (int64_t)divide_up((size_t)dims[rank - 1], 8);
    bnncc_status status = BNNCC_OK;
    if (call->spec->gives_float)
        status = call_output(call, 0, dims, rank, &floats, error);
    if (status == BNNCC_OK && call->spec->gives_bits)
        status = call_output(call, call->spec->gives_float ? 1 : 0, packed, rank, &signs, error);
    *y = floats;
    *bits = signs;
    return status;
}

static void run_tasks(void *context, void (*task)(void *argument, size_t index), void *argument, size_t count) {
    op_call *call = context;
    threads_watch watch = {.task = task, .argument = argument, .size = call->size};
    /* 0 batches: onnxruntime hands out single tasks to the session's threads; with one thread it is a plain loop. */
    struct OrtStatus *status = call->api->kernel_context_parallel_for(call->context, threads_task, count, 0, &watch);
    threads_note(call->threads, &watch);
    if (!status)
        return;
    if (call->parallel_failure)
        call->api->release_status(status);
    else
        call->parallel_failure = status;
}

bnncc_parallel call_parallel(op_call *call, const op_tensor *input) {
    bool overflow = false;
    call->size = 1;
    for (size_t i = 0; i < input->rank; i++)
        call->size = times(call->size, (size_t)input->dims[i], &overflow);
    return (bnncc_parallel){.run = run_tasks, .context = call, .threads = threads_expected(call->threads, call->size)};
}

/* ---- While shapes are inferred -------------------------------------------------------------------------------------
 */

static bool read_attribute(const op_shapes *shapes, const char *name, int type, void *values, size_t size) {
    const ort_api *api = shapes->api;
    const struct OrtOpAttr *attribute = NULL;
    size_t needed = 0;
    return succeeded(api, api->shape_infer_context_get_attribute(shapes->context, name, &attribute)) &&
           succeeded(api, api->read_op_attr(attribute, type, values, size, &needed)) && needed == size;
}

bool shapes_int(const op_shapes *shapes, const char *name, int64_t *value) {
    return read_attribute(shapes, name, ORT_ATTRIBUTE_INT, value, sizeof *value);
}

bool shapes_ints(const op_shapes *shapes, const char *name, int64_t *values, size_t count) {
    return read_attribute(shapes, name, ORT_ATTRIBUTE_INTS, values, count * sizeof *values);
}

bool shapes_input(const op_shapes *shapes, op_dim *dims, size_t *rank) {
    const ort_api *api = shapes->api;
    struct OrtTensorTypeAndShapeInfo *info = NULL; /* owned by the context */
    int64_t values[RANK_LIMIT];
    const char *symbols[RANK_LIMIT] = {0};
    /* Rank 0 stands for an unknown rank. */
    if (!succeeded(api, api->shape_infer_context_get_input_type_shape(shapes->context, 0, &info)) ||
        !succeeded(api, api->get_dimensions_count(info, rank)) || *rank == 0 || *rank > RANK_LIMIT ||
        !succeeded(api, api->get_dimensions(info, values, *rank)) ||
        !succeeded(api, api->get_symbolic_dimensions(info, symbols, *rank)))
        return false;
    for (size_t i = 0; i < *rank; i++) {
        dims[i] = known_dim(values[i]);
        if (values[i] < 0 && symbols[i] && strlen(symbols[i]) < SYMBOL_LIMIT)
            strcpy(dims[i].symbol, symbols[i]);
    }
    return true;
}

void shapes_output(const op_shapes *shapes, size_t index, const op_dim *dims, size_t rank) {
    const ort_api *api = shapes->api;
    int64_t values[RANK_LIMIT];
    const char *symbols[RANK_LIMIT];
    for (size_t i = 0; i < rank; i++) {
        /* onnxruntime would store the -1 itself for a dimension without a symbol. */
        if (dims[i].value < 0 && !dims[i].symbol[0])
            return;
        values[i] = dims[i].value;
        symbols[i] = dims[i].symbol;
    }
    struct OrtTensorTypeAndShapeInfo *info = NULL;
    if (!succeeded(api, api->create_tensor_type_and_shape_info(&info)))
        return;
    /* A shape that contradicts the declared one is refused here; the run then reports the real shape. */
    if (succeeded(api, api->set_dimensions(info, values, rank)) &&
        succeeded(api, api->set_symbolic_dimensions(info, symbols, rank)))
        (void)succeeded(api, api->shape_infer_context_set_output_type_shape(shapes->context, index, info));
    api->release_tensor_type_and_shape_info(info);
}

void shapes_layer_outputs(const op_shapes *shapes, op_dim *dims, size_t rank) {
    if (shapes->spec->gives_float)
        shapes_output(shapes, 0, dims, rank);
    dims[rank - 1] = packed_dim(&dims[rank - 1]);
    if (shapes->spec->gives_bits)
        shapes_output(shapes, shapes->spec->gives_float ? 1 : 0, dims, rank);
}

op_dim known_dim(int64_t value) { return (op_dim){.value = value < 0 ? -1 : value}; }

/* A dimension that is a formula of another one's symbol: equal texts stand for equal values, which is all that
 * onnxruntime asks of a symbol. Unknown where the text gets too long. */
__attribute__((format(printf, 1, 2))) static op_dim symbolic_dim(const char *format, ...) {
    op_dim dim = {.value = -1};
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(dim.symbol, sizeof dim.symbol, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof dim.symbol)
        dim.symbol[0] = '\0';
    return dim;
}

op_dim packed_dim(const op_dim *dim) {
    if (dim->value >= 0)
        return known_dim(dim->value / 8 + (dim->value % 8 != 0));
    return dim->symbol[0] ? symbolic_dim("ceil((%s)/8)", dim->symbol) : *dim;
}

op_dim window_positions(const op_dim *dim, int64_t kernel, int64_t stride, int64_t dilation, int64_t pads) {
    const op_dim unknown = {.value = -1};
    const int64_t factors[] = {kernel, stride, dilation};
    for (size_t i = 0; i < 3; i++)
        if (factors[i] < 1 || factors[i] > SIZE_LIMIT)
            return unknown;
    if (pads < 0 || pads > 2 * SIZE_LIMIT || dim->value > SIZE_LIMIT)
        return unknown;
    const int64_t grown = pads - ((kernel - 1) * dilation + 1); /* the output is (dim + grown) / stride + 1 */
    if (dim->value >= 0)
        return dim->value + grown < 0 ? unknown : known_dim((dim->value + grown) / stride + 1);
    if (!dim->symbol[0] || (stride == 1 && grown == -1))
        return *dim;
    if (stride == 1)
        return symbolic_dim("(%s)%+" PRId64, dim->symbol, grown + 1);
    return symbolic_dim("floor((%s%+" PRId64 ")/%" PRId64 ")+1", dim->symbol, grown, stride);
}

/* ---- The functions of an op's table --------------------------------------------------------------------------------
 */

static const bound_op *bound_of(const ort_custom_op *op) { return (const bound_op *)op; }

static const char *get_name(const ort_custom_op *op) { return bound_of(op)->spec->name; }

static const char *get_provider(const ort_custom_op *op) {
    (void)op;
    return "CPUExecutionProvider";
}

static size_t get_input_count(const ort_custom_op *op) { return bound_of(op)->spec->input_count; }

static int get_input_type(const ort_custom_op *op, size_t index) { return (int)bound_of(op)->spec->inputs[index]; }

static size_t get_output_count(const ort_custom_op *op) { return bound_of(op)->spec->output_count; }

static int get_output_type(const ort_custom_op *op, size_t index) { return (int)bound_of(op)->spec->outputs[index]; }

static int get_characteristic(const ort_custom_op *op, size_t index) {
    (void)op, (void)index;
    return ORT_CHARACTERISTIC_REQUIRED;
}

static int get_memory_type(const ort_custom_op *op, size_t index) {
    (void)op, (void)index;
    return ORT_MEMORY_DEFAULT;
}

static void destroy_kernel(void *opaque) {
    op_kernel *kernel = opaque;
    if (!kernel)
        return;
    if (kernel->spec->destroy)
        kernel->spec->destroy(kernel->state);
    free(kernel);
}

static struct OrtStatus *create_kernel(const ort_custom_op *op, const ort_api *api, const struct OrtKernelInfo *info,
                                       void **kernel) {
    const op_node node = {.api = api, .info = info, .spec = bound_of(op)->spec};
    bnncc_error error = {.message = ""};
    char label[LABEL_LIMIT];
    write_label(&node, label);
    /* The struct's size is a multiple of a pointer's, so the state behind it is aligned. */
    op_kernel *created = calloc(1, sizeof *created + node.spec->state_size);
    if (!created) {
        fail(&error, BNNCC_OUT_OF_MEMORY, "out of memory");
        return node_error(api, BNNCC_OUT_OF_MEMORY, label, &error);
    }
    created->api = api;
    created->spec = node.spec;
    created->state = created + 1;
    memcpy(created->label, label, sizeof label);
    const bnncc_status status = node.spec->create(&node, created->state, &error);
    if (status != BNNCC_OK) {
        destroy_kernel(created);
        return node_error(api, status, label, &error);
    }
    *kernel = created;
    return NULL;
}

static struct OrtStatus *compute(void *opaque, struct OrtKernelContext *context) {
    op_kernel *kernel = opaque;
    op_call call = {.api = kernel->api, .context = context, .spec = kernel->spec, .threads = &kernel->threads};
    bnncc_error error = {.message = ""};
    const bnncc_status status = kernel->spec->run(kernel->state, &call, &error);
    if (status == BNNCC_OK)
        return call.parallel_failure;
    if (call.parallel_failure)
        kernel->api->release_status(call.parallel_failure);
    return node_error(kernel->api, status, kernel->label, &error);
}

static struct OrtStatus *infer_shapes(const ort_custom_op *op, struct OrtShapeInferContext *context) {
    const bound_op *bound = bound_of(op);
    op_shapes shapes = {.api = bound->api, .spec = bound->spec, .context = context};
    bound->spec->infer(&shapes);
    return NULL;
}

static void release_inplace(int *inputs, int *outputs) {
    free(inputs);
    free(outputs);
}

void bind_op(bound_op *bound, const op_spec *spec, const ort_api *api) {
    *bound = (bound_op){
        .table = {.version = ORT_ABI_VERSION,
                  .get_name = get_name,
                  .get_execution_provider_type = get_provider,
                  .get_input_type = get_input_type,
                  .get_input_type_count = get_input_count,
                  .get_output_type = get_output_type,
                  .get_output_type_count = get_output_count,
                  .kernel_destroy = destroy_kernel,
                  .get_input_characteristic = get_characteristic,
                  .get_output_characteristic = get_characteristic,
                  .get_input_memory_type = get_memory_type,
                  .create_kernel_v2 = create_kernel,
                  .kernel_compute_v2 = compute,
                  .infer_output_shape = infer_shapes,
                  .get_may_inplace = spec->may_inplace,
                  .release_may_inplace = spec->may_inplace ? release_inplace : NULL},
        .api = api,
        .spec = spec,
    };
}
