/* Names and block geometry of tensor types: see tensor_type.h. */
#include "engine/model/tensor_type.h"

const struct tensor_type_info *tensor_type_info(uint32_t type)
{
#define ROW(name, number, ...) [TENSOR_##name] = {#name, __VA_ARGS__},
    static const struct tensor_type_info infos[] = {TENSOR_TYPES(ROW)};
#undef ROW
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
