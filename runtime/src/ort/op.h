/* What an op of the domain `bnncc` is, and what its file may ask of onnxruntime: attributes and constants when a node's
 * kernel is created, tensors when it runs, dimensions when shapes are inferred. Failures are a bnncc_status with a
 * message; op.c turns them into an OrtStatus that names the node. */
#ifndef BNNCC_ORT_OP_H
#define BNNCC_ORT_OP_H

#include "bnncc.h"
#include "checked.h"
#include "ort_abi.h"

#include <stdbool.h>

enum { INPUT_LIMIT = 8, OUTPUT_LIMIT = 2, RANK_LIMIT = 16, SYMBOL_LIMIT = 192 };

typedef struct op_node op_node;     /* a node whose kernel is being created */
typedef struct op_call op_call;     /* one run of a kernel */
typedef struct op_shapes op_shapes; /* a node whose output shapes are being inferred */

typedef struct op_spec {
    const char *name;
    bool gives_float, gives_bits; /* of the layers: which outputs, in this order */
    bool has_steps;               /* of the layers: steps after scale and shift */
    size_t input_count, output_count;
    ort_element inputs[INPUT_LIMIT], outputs[OUTPUT_LIMIT];
    /* What a kernel keeps, immutable after `create`: so many bytes, zeroed before. */
    size_t state_size;
    /* Reads and checks the node. */
    bnncc_status (*create)(const op_node *node, void *state, bnncc_error *error);
    bnncc_status (*run)(const void *state, op_call *call, bnncc_error *error);
    /* Frees what the state points to, also that of a `create` that failed; NULL where it points to nothing. */
    void (*destroy)(void *state);
    /* NULL, or which outputs may have the memory of which inputs, as ort_custom_op asks it; from malloc. */
    size_t (*may_inplace)(int **inputs, int **outputs);
    /* Gives the output shapes that can be told; says nothing about a bad node, which `create` will refuse. */
    void (*infer)(op_shapes *shapes);
} op_spec;

/* The specifications of each family, one array per file. */
enum { SIGN_OP_COUNT = 2, POOL_OP_COUNT = 1, CONV_OP_COUNT = 5, LINEAR_OP_COUNT = 3 };
extern const op_spec sign_ops[SIGN_OP_COUNT];
extern const op_spec pool_ops[POOL_OP_COUNT];
extern const op_spec conv_ops[CONV_OP_COUNT];
extern const op_spec linear_ops[LINEAR_OP_COUNT];

/* An op's table as onnxruntime gets it, with what its functions need to know besides. */
typedef struct bound_op {
    ort_custom_op table; /* first: onnxruntime hands back its address */
    const ort_api *api;
    const op_spec *spec;
} bound_op;

void bind_op(bound_op *bound, const op_spec *spec, const ort_api *api);

/* ---- Tensors --------------------------------------------------------------------------------------------------- */

typedef struct op_tensor {
    const void *data;
    size_t rank;
    int64_t dims[RANK_LIMIT];
} op_tensor;

/* A pattern of dimensions; -1 stands for any. */
#define ANY INT64_C(-1)

/* Whether `dims` has the pattern's rank and values; -1 in `dims` (not known yet) fits everything. */
bnncc_status match_dims(const char *what, const int64_t *dims, size_t rank, const int64_t *pattern, size_t pattern_rank,
                        bnncc_error *error);

/* ---- While a kernel is created ------------------------------------------------------------------------------------
 */

const op_spec *node_spec(const op_node *node);
/* An attribute in [low, high]. */
bnncc_status node_int(const op_node *node, const char *name, int64_t low, int64_t high, int64_t *value,
                      bnncc_error *error);
/* Integers in [low, SIZE_LIMIT], 1 to `most` of them; *count says how many. */
bnncc_status node_int_list(const op_node *node, const char *name, int64_t low, int64_t *values, size_t most,
                           size_t *count, bnncc_error *error);
/* Exactly `count` integers in [low, SIZE_LIMIT]. */
bnncc_status node_ints(const op_node *node, const char *name, int64_t low, int64_t *values, size_t count,
                       bnncc_error *error);
/* The characters of an attribute, in memory to be freed; NULL where the node has no such attribute. One of another type
 * is none. */
bnncc_status node_optional_text(const op_node *node, const char *name, char **text, size_t *length, bnncc_error *error);
/* Input `index`, which must be an initializer of that type and of the pattern's shape. Valid during creation only. */
bnncc_status node_constant(const op_node *node, size_t index, const char *what, const int64_t *pattern,
                           size_t pattern_rank, op_tensor *tensor, bnncc_error *error);
/* What is declared about an input's shape: *known is false where not even its rank is. */
bnncc_status node_input_shape(const op_node *node, size_t index, bool *known, op_tensor *shape, bnncc_error *error);
/* Reads the inputs scale and shift, and, where there are no steps, threshold, as the op has them, from input `first`
 * on. Valid during creation only. */
bnncc_status node_epilogue(const op_node *node, size_t first, int64_t channels, bnncc_epilogue *epilogue,
                           bnncc_error *error);
/* Input `index`, an initializer of values of that type, in memory of its own to be freed. */
bnncc_status node_values(const op_node *node, size_t index, const char *what, void **values, size_t *count,
                         bnncc_error *error);

/* ---- While it runs --------------------------------------------------------------------------------------------------
 */

bnncc_status call_input(const op_call *call, size_t index, op_tensor *tensor, bnncc_error *error);
/* Allocates output `index`; *data may be NULL where there is no element. */
bnncc_status call_output(const op_call *call, size_t index, const int64_t *dims, size_t rank, void **data,
                         bnncc_error *error);
/* The outputs that a layer's op has: floats of these dimensions, and packed signs of the same; NULL for no such one. */
bnncc_status call_layer_outputs(const op_call *call, const int64_t *dims, size_t rank, float **y, uint8_t **bits,
                                bnncc_error *error);
/* onnxruntime's own threads, for work that goes with an input's size. */
bnncc_parallel call_parallel(op_call *call, const op_tensor *input);
/* Whether a tensor of these dimensions has no element. */
bool is_empty(const int64_t *dims, size_t rank);

/* ---- While shapes are inferred ----------------------------------------------------------------------------------- */

/* A dimension: a value, or -1 and a symbol, or -1 and "" where nothing is known. */
typedef struct op_dim {
    int64_t value;
    char symbol[SYMBOL_LIMIT];
} op_dim;

bool shapes_int(const op_shapes *shapes, const char *name, int64_t *value);
bool shapes_ints(const op_shapes *shapes, const char *name, int64_t *values, size_t count);
/* The first input's dimensions; false where the rank is not known or above RANK_LIMIT. */
bool shapes_input(const op_shapes *shapes, op_dim *dims, size_t *rank);
/* States an output's shape, unless a dimension is unknown and without a symbol. */
void shapes_output(const op_shapes *shapes, size_t index, const op_dim *dims, size_t rank);
/* The same of the outputs that a layer's op has, from the dimensions of its floats. */
void shapes_layer_outputs(const op_shapes *shapes, op_dim *dims, size_t rank);
op_dim known_dim(int64_t value);
/* Bytes that hold so many bits: ceil(dim / 8). */
op_dim packed_dim(const op_dim *dim);
/* floor((dim + pads - window) / stride) + 1, window being (kernel - 1) * dilation + 1: the positions of a window. */
op_dim window_positions(const op_dim *dim, int64_t kernel, int64_t stride, int64_t dilation, int64_t pads);

#endif /* BNNCC_ORT_OP_H */
