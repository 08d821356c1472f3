/* The part of onnxruntime's C ABI that the custom ops use, declared here because onnxruntime's Python wheel ships no
 * header. Its tables of functions only ever grow at the end, so a slot's offset is a fact that stays; slots not used
 * are reserved runs, and every slot used is pinned by a static assertion. Names are this project's own, so that
 * ort_abi_check.c can include the real header beside this one and compare. */
#ifndef BNNCC_ORT_ABI_H
#define BNNCC_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

/* The API version asked for, and claimed by the ops: an older onnxruntime returns no table for it. */
#define ORT_ABI_VERSION 18

struct OrtAllocator;
struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtOpAttr;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;
struct ort_custom_op;

/* Values of onnxruntime's enumerations; C passes them as int. */
enum {
    ORT_CODE_FAIL = 1,
    ORT_CODE_INVALID_ARGUMENT = 2,
};

typedef enum ort_element {
    ORT_ELEMENT_FLOAT = 1,
    ORT_ELEMENT_UINT8 = 2,
    ORT_ELEMENT_INT8 = 3,
    ORT_ELEMENT_INT32 = 6,
} ort_element;

enum { ORT_ATTRIBUTE_INT = 1, ORT_ATTRIBUTE_INTS = 2 };
enum { ORT_CHARACTERISTIC_REQUIRED = 0 };
enum { ORT_MEMORY_DEFAULT = 0 };

typedef void (*ort_unused)(void);

typedef struct ort_api {
    /* 0 */
    struct OrtStatus *(*create_status)(int code, const char *message);
    ort_unused reserved_1[1];
    const char *(*get_error_message)(const struct OrtStatus *status);
    ort_unused reserved_3[23];
    /* 26 */
    struct OrtStatus *(*create_custom_op_domain)(const char *name, struct OrtCustomOpDomain **domain);
    struct OrtStatus *(*custom_op_domain_add)(struct OrtCustomOpDomain *domain, const struct ort_custom_op *op);
    struct OrtStatus *(*add_custom_op_domain)(struct OrtSessionOptions *options, struct OrtCustomOpDomain *domain);
    ort_unused reserved_29[22];
    /* 51 */
    struct OrtStatus *(*get_tensor_mutable_data)(struct OrtValue *value, void **data);
    ort_unused reserved_52[3];
    struct OrtStatus *(*cast_type_info_to_tensor_info)(const struct OrtTypeInfo *type,
                                                       const struct OrtTensorTypeAndShapeInfo **info);
    ort_unused reserved_56[1];
    struct OrtStatus *(*create_tensor_type_and_shape_info)(struct OrtTensorTypeAndShapeInfo **info);
    ort_unused reserved_58[1];
    struct OrtStatus *(*set_dimensions)(struct OrtTensorTypeAndShapeInfo *info, const int64_t *dims, size_t count);
    /* 60 */
    struct OrtStatus *(*get_tensor_element_type)(const struct OrtTensorTypeAndShapeInfo *info, int *element);
    struct OrtStatus *(*get_dimensions_count)(const struct OrtTensorTypeAndShapeInfo *info, size_t *count);
    struct OrtStatus *(*get_dimensions)(const struct OrtTensorTypeAndShapeInfo *info, int64_t *dims, size_t count);
    struct OrtStatus *(*get_symbolic_dimensions)(const struct OrtTensorTypeAndShapeInfo *info, const char **names,
                                                 size_t count);
    ort_unused reserved_64[1];
    struct OrtStatus *(*get_tensor_type_and_shape)(const struct OrtValue *value,
                                                   struct OrtTensorTypeAndShapeInfo **info);
    ort_unused reserved_66[20];
    /* 86 */
    struct OrtStatus *(*kernel_info_get_attribute_int64)(const struct OrtKernelInfo *info, const char *name,
                                                         int64_t *value);
    struct OrtStatus *(*kernel_info_get_attribute_string)(const struct OrtKernelInfo *info, const char *name,
                                                          char *value, size_t *size);
    ort_unused reserved_88[2];
    /* 90 */
    struct OrtStatus *(*kernel_context_get_input)(const struct OrtKernelContext *context, size_t index,
                                                  const struct OrtValue **value);
    struct OrtStatus *(*kernel_context_get_output)(struct OrtKernelContext *context, size_t index, const int64_t *dims,
                                                   size_t count, struct OrtValue **value);
    ort_unused reserved_92[1];
    void (*release_status)(struct OrtStatus *status);
    ort_unused reserved_94[4];
    /* 98 */
    void (*release_type_info)(struct OrtTypeInfo *type);
    void (*release_tensor_type_and_shape_info)(struct OrtTensorTypeAndShapeInfo *info);
    ort_unused reserved_100[1];
    void (*release_custom_op_domain)(struct OrtCustomOpDomain *domain);
    ort_unused reserved_102[61];
    /* 163 */
    struct OrtStatus *(*kernel_info_get_attribute_array_int64)(const struct OrtKernelInfo *info, const char *name,
                                                               int64_t *values, size_t *count);
    ort_unused reserved_164[69];
    /* 233 */
    struct OrtStatus *(*kernel_info_get_output_name)(const struct OrtKernelInfo *info, size_t index, char *name,
                                                     size_t *size);
    struct OrtStatus *(*kernel_info_get_input_type_info)(const struct OrtKernelInfo *info, size_t index,
                                                         struct OrtTypeInfo **type);
    ort_unused reserved_235[9];
    /* 244 */
    struct OrtStatus *(*kernel_info_get_node_name)(const struct OrtKernelInfo *info, char *name, size_t *size);
    ort_unused reserved_245[4];
    struct OrtStatus *(*kernel_info_get_constant_input_tensor)(const struct OrtKernelInfo *info, size_t index,
                                                               int *is_constant, const struct OrtValue **value);
    ort_unused reserved_250[18];
    /* 268 */
    struct OrtStatus *(*shape_infer_context_get_input_type_shape)(const struct OrtShapeInferContext *context,
                                                                  size_t index,
                                                                  struct OrtTensorTypeAndShapeInfo **info);
    struct OrtStatus *(*shape_infer_context_get_attribute)(const struct OrtShapeInferContext *context, const char *name,
                                                           const struct OrtOpAttr **attribute);
    struct OrtStatus *(*shape_infer_context_set_output_type_shape)(const struct OrtShapeInferContext *context,
                                                                   size_t index,
                                                                   const struct OrtTensorTypeAndShapeInfo *info);
    struct OrtStatus *(*set_symbolic_dimensions)(struct OrtTensorTypeAndShapeInfo *info, const char **names,
                                                 size_t count);
    struct OrtStatus *(*read_op_attr)(const struct OrtOpAttr *attribute, int type, void *data, size_t size,
                                      size_t *needed);
    ort_unused reserved_273[1];
    struct OrtStatus *(*kernel_context_parallel_for)(const struct OrtKernelContext *context,
                                                     void (*task)(void *argument, size_t index), size_t count,
                                                     size_t batches, void *argument);
} ort_api;

typedef struct ort_api_base {
    const ort_api *(*get_api)(uint32_t version);
    const char *(*get_version_string)(void);
} ort_api_base;

typedef struct ort_custom_op {
    uint32_t version;
    void *(*create_kernel)(const struct ort_custom_op *op, const ort_api *api, const struct OrtKernelInfo *info);
    const char *(*get_name)(const struct ort_custom_op *op);
    const char *(*get_execution_provider_type)(const struct ort_custom_op *op);
    int (*get_input_type)(const struct ort_custom_op *op, size_t index);
    size_t (*get_input_type_count)(const struct ort_custom_op *op);
    int (*get_output_type)(const struct ort_custom_op *op, size_t index);
    size_t (*get_output_type_count)(const struct ort_custom_op *op);
    void (*kernel_compute)(void *kernel, struct OrtKernelContext *context);
    void (*kernel_destroy)(void *kernel);
    int (*get_input_characteristic)(const struct ort_custom_op *op, size_t index);
    int (*get_output_characteristic)(const struct ort_custom_op *op, size_t index);
    int (*get_input_memory_type)(const struct ort_custom_op *op, size_t index);
    ort_unused variadic[4]; /* asked of variadic inputs and outputs only */
    struct OrtStatus *(*create_kernel_v2)(const struct ort_custom_op *op, const ort_api *api,
                                          const struct OrtKernelInfo *info, void **kernel);
    struct OrtStatus *(*kernel_compute_v2)(void *kernel, struct OrtKernelContext *context);
    struct OrtStatus *(*infer_output_shape)(const struct ort_custom_op *op, struct OrtShapeInferContext *context);
    ort_unused versions[2]; /* start and end; none stands for every version from 1 on */
    /* Which outputs may have the memory of which inputs: two lists, their length, and how to give them back. */
    size_t (*get_may_inplace)(int **inputs, int **outputs);
    void (*release_may_inplace)(int *inputs, int *outputs);
    ort_unused alias_map[2]; /* none stands for no alias */
} ort_custom_op;

/* The slots, counted from 0. */
#define ORT_SLOT(member, slot)                                                                                         \
    _Static_assert(offsetof(ort_api, member) == (slot) * sizeof(ort_unused), "slot of " #member)
ORT_SLOT(create_status, 0);
ORT_SLOT(get_error_message, 2);
ORT_SLOT(create_custom_op_domain, 26);
ORT_SLOT(custom_op_domain_add, 27);
ORT_SLOT(add_custom_op_domain, 28);
ORT_SLOT(get_tensor_mutable_data, 51);
ORT_SLOT(cast_type_info_to_tensor_info, 55);
ORT_SLOT(create_tensor_type_and_shape_info, 57);
ORT_SLOT(set_dimensions, 59);
ORT_SLOT(get_tensor_element_type, 60);
ORT_SLOT(get_dimensions_count, 61);
ORT_SLOT(get_dimensions, 62);
ORT_SLOT(get_symbolic_dimensions, 63);
ORT_SLOT(get_tensor_type_and_shape, 65);
ORT_SLOT(kernel_info_get_attribute_int64, 86);
ORT_SLOT(kernel_info_get_attribute_string, 87);
ORT_SLOT(kernel_context_get_input, 90);
ORT_SLOT(kernel_context_get_output, 91);
ORT_SLOT(release_status, 93);
ORT_SLOT(release_type_info, 98);
ORT_SLOT(release_tensor_type_and_shape_info, 99);
ORT_SLOT(release_custom_op_domain, 101);
ORT_SLOT(kernel_info_get_attribute_array_int64, 163);
ORT_SLOT(kernel_info_get_output_name, 233);
ORT_SLOT(kernel_info_get_input_type_info, 234);
ORT_SLOT(kernel_info_get_node_name, 244);
ORT_SLOT(kernel_info_get_constant_input_tensor, 249);
ORT_SLOT(shape_infer_context_get_input_type_shape, 268);
ORT_SLOT(shape_infer_context_get_attribute, 269);
ORT_SLOT(shape_infer_context_set_output_type_shape, 270);
ORT_SLOT(set_symbolic_dimensions, 271);
ORT_SLOT(read_op_attr, 272);
ORT_SLOT(kernel_context_parallel_for, 274);
#undef ORT_SLOT

_Static_assert(offsetof(ort_custom_op, create_kernel) == 8, "offset of create_kernel");
_Static_assert(offsetof(ort_custom_op, get_name) == 16, "offset of get_name");
_Static_assert(offsetof(ort_custom_op, get_execution_provider_type) == 24, "offset of get_execution_provider_type");
_Static_assert(offsetof(ort_custom_op, get_input_type) == 32, "offset of get_input_type");
_Static_assert(offsetof(ort_custom_op, get_input_type_count) == 40, "offset of get_input_type_count");
_Static_assert(offsetof(ort_custom_op, get_output_type) == 48, "offset of get_output_type");
_Static_assert(offsetof(ort_custom_op, get_output_type_count) == 56, "offset of get_output_type_count");
_Static_assert(offsetof(ort_custom_op, kernel_compute) == 64, "offset of kernel_compute");
_Static_assert(offsetof(ort_custom_op, kernel_destroy) == 72, "offset of kernel_destroy");
_Static_assert(offsetof(ort_custom_op, get_input_characteristic) == 80, "offset of get_input_characteristic");
_Static_assert(offsetof(ort_custom_op, get_output_characteristic) == 88, "offset of get_output_characteristic");
_Static_assert(offsetof(ort_custom_op, get_input_memory_type) == 96, "offset of get_input_memory_type");
_Static_assert(offsetof(ort_custom_op, variadic) == 104, "offset of variadic");
_Static_assert(offsetof(ort_custom_op, create_kernel_v2) == 136, "offset of create_kernel_v2");
_Static_assert(offsetof(ort_custom_op, kernel_compute_v2) == 144, "offset of kernel_compute_v2");
_Static_assert(offsetof(ort_custom_op, infer_output_shape) == 152, "offset of infer_output_shape");
_Static_assert(offsetof(ort_custom_op, versions) == 160, "offset of versions");
_Static_assert(offsetof(ort_custom_op, get_may_inplace) == 176, "offset of get_may_inplace");
_Static_assert(offsetof(ort_custom_op, release_may_inplace) == 184, "offset of release_may_inplace");
_Static_assert(offsetof(ort_custom_op, alias_map) == 192, "offset of alias_map");
_Static_assert(sizeof(ort_custom_op) == 208, "size of the table of an op");

#endif /* BNNCC_ORT_ABI_H */
