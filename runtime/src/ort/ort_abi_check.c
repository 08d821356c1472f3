/* Compares ort_abi.h with onnxruntime's own header, at compile time; built where BNNCC_ORT_INCLUDE_DIR is given. */
#include "ort_abi.h"

#include <onnxruntime_c_api.h>

#define SAME_SLOT(ours, theirs) _Static_assert(offsetof(ort_api, ours) == offsetof(OrtApi, theirs), "slot of " #theirs)
SAME_SLOT(create_status, CreateStatus);
SAME_SLOT(get_error_message, GetErrorMessage);
SAME_SLOT(create_custom_op_domain, CreateCustomOpDomain);
SAME_SLOT(custom_op_domain_add, CustomOpDomain_Add);
SAME_SLOT(add_custom_op_domain, AddCustomOpDomain);
SAME_SLOT(get_tensor_mutable_data, GetTensorMutableData);
SAME_SLOT(cast_type_info_to_tensor_info, CastTypeInfoToTensorInfo);
SAME_SLOT(create_tensor_type_and_shape_info, CreateTensorTypeAndShapeInfo);
SAME_SLOT(set_dimensions, SetDimensions);
SAME_SLOT(get_tensor_element_type, GetTensorElementType);
SAME_SLOT(get_dimensions_count, GetDimensionsCount);
SAME_SLOT(get_dimensions, GetDimensions);
SAME_SLOT(get_symbolic_dimensions, GetSymbolicDimensions);
SAME_SLOT(get_tensor_type_and_shape, GetTensorTypeAndShape);
SAME_SLOT(kernel_info_get_attribute_int64, KernelInfoGetAttribute_int64);
SAME_SLOT(kernel_info_get_attribute_string, KernelInfoGetAttribute_string);
SAME_SLOT(kernel_context_get_input, KernelContext_GetInput);
SAME_SLOT(kernel_context_get_output, KernelContext_GetOutput);
SAME_SLOT(release_status, ReleaseStatus);
SAME_SLOT(release_type_info, ReleaseTypeInfo);
SAME_SLOT(release_tensor_type_and_shape_info, ReleaseTensorTypeAndShapeInfo);
SAME_SLOT(release_custom_op_domain, ReleaseCustomOpDomain);
SAME_SLOT(kernel_info_get_attribute_array_int64, KernelInfoGetAttributeArray_int64);
SAME_SLOT(kernel_info_get_output_name, KernelInfo_GetOutputName);
SAME_SLOT(kernel_info_get_input_type_info, KernelInfo_GetInputTypeInfo);
SAME_SLOT(kernel_info_get_node_name, KernelInfo_GetNodeName);
SAME_SLOT(kernel_info_get_constant_input_tensor, KernelInfoGetConstantInput_tensor);
SAME_SLOT(shape_infer_context_get_input_type_shape, ShapeInferContext_GetInputTypeShape);
SAME_SLOT(shape_infer_context_get_attribute, ShapeInferContext_GetAttribute);
SAME_SLOT(shape_infer_context_set_output_type_shape, ShapeInferContext_SetOutputTypeShape);
SAME_SLOT(set_symbolic_dimensions, SetSymbolicDimensions);
SAME_SLOT(read_op_attr, ReadOpAttr);
SAME_SLOT(kernel_context_parallel_for, KernelContext_ParallelFor);

#define SAME_OFFSET(ours, theirs)                                                                                      \
    _Static_assert(offsetof(ort_custom_op, ours) == offsetof(OrtCustomOp, theirs), "offset of " #theirs)
SAME_OFFSET(version, version);
SAME_OFFSET(create_kernel, CreateKernel);
SAME_OFFSET(get_name, GetName);
SAME_OFFSET(get_execution_provider_type, GetExecutionProviderType);
SAME_OFFSET(get_input_type, GetInputType);
SAME_OFFSET(get_input_type_count, GetInputTypeCount);
SAME_OFFSET(get_output_type, GetOutputType);
SAME_OFFSET(get_output_type_count, GetOutputTypeCount);
SAME_OFFSET(kernel_compute, KernelCompute);
SAME_OFFSET(kernel_destroy, KernelDestroy);
SAME_OFFSET(get_input_characteristic, GetInputCharacteristic);
SAME_OFFSET(get_output_characteristic, GetOutputCharacteristic);
SAME_OFFSET(get_input_memory_type, GetInputMemoryType);
SAME_OFFSET(create_kernel_v2, CreateKernelV2);
SAME_OFFSET(kernel_compute_v2, KernelComputeV2);
SAME_OFFSET(infer_output_shape, InferOutputShapeFn);
SAME_OFFSET(get_may_inplace, GetMayInplace);
SAME_OFFSET(release_may_inplace, ReleaseMayInplace);

_Static_assert(ORT_CODE_FAIL == (int)ORT_FAIL && ORT_CODE_INVALID_ARGUMENT == (int)ORT_INVALID_ARGUMENT, "codes");
_Static_assert(ORT_ELEMENT_FLOAT == (int)ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "float");
_Static_assert(ORT_ELEMENT_UINT8 == (int)ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "uint8");
_Static_assert(ORT_ELEMENT_INT8 == (int)ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "int8");
_Static_assert(ORT_ELEMENT_INT32 == (int)ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "int32");
_Static_assert(ORT_ATTRIBUTE_INT == (int)ORT_OP_ATTR_INT && ORT_ATTRIBUTE_INTS == (int)ORT_OP_ATTR_INTS, "attributes");
_Static_assert(ORT_CHARACTERISTIC_REQUIRED == (int)INPUT_OUTPUT_REQUIRED, "characteristic");
_Static_assert(ORT_MEMORY_DEFAULT == (int)OrtMemTypeDefault, "memory type");
