/* Names and block geometry of tensor types: see tensor_type.h. Numbers are those of GGUF files. */
#include "engine/model/tensor_type.h"

const struct tensor_type_info *tensor_type_info(uint32_t type)
{
    static const struct tensor_type_info infos[] = {
        [TENSOR_F32] = {"F32", 1, 4},       [TENSOR_F16] = {"F16", 1, 2},
        [TENSOR_Q4_0] = {"Q4_0", 32, 18},   [TENSOR_Q4_1] = {"Q4_1", 32, 20},
        [TENSOR_Q5_0] = {"Q5_0", 32, 22},   [TENSOR_Q5_1] = {"Q5_1", 32, 24},
        [TENSOR_Q8_0] = {"Q8_0", 32, 34},   [TENSOR_Q4_K] = {"Q4_K", 256, 144},
        [TENSOR_Q5_K] = {"Q5_K", 256, 176}, [TENSOR_Q6_K] = {"Q6_K", 256, 210},
        [TENSOR_BF16] = {"BF16", 1, 2}};
    if (type >= sizeof infos / sizeof *infos || !infos[type].name)
        return 0;
    return &infos[type];
}

const char *tensor_type_name(uint32_t type)
{
    static const char *const names[] = {
        [0] = "F32",     [1] = "F16",      [2] = "Q4_0",   [3] = "Q4_1",    [6] = "Q5_0",
        [7] = "Q5_1",    [8] = "Q8_0",     [9] = "Q8_1",   [10] = "Q2_K",   [11] = "Q3_K",
        [12] = "Q4_K",   [13] = "Q5_K",    [14] = "Q6_K",  [15] = "Q8_K",   [16] = "IQ2_XXS",
        [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S",
        [22] = "IQ2_S",  [23] = "IQ4_XS",  [24] = "I8",    [25] = "I16",    [26] = "I32",
        [27] = "I64",    [28] = "F64",     [29] = "IQ1_M", [30] = "BF16",   [34] = "TQ1_0",
        [35] = "TQ2_0",  [39] = "MXFP4"};
    if (type >= sizeof names / sizeof *names || !names[type])
        return "unknown";
    return names[type];
}
