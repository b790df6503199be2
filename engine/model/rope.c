/* Frequencies of rotary positions: see spec.h. */
#include <math.h>

#include "engine/model/spec.h"

double rope_frequency(const struct rope_set *rope, uint32_t pair)
{
    double frequency = pow(rope->base, -2.0 * pair / rope->dim);
    return rope->factors ? frequency / (double)rope->factors[pair] : frequency;
}
