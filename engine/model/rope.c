/* Angles of rotary positions: see spec.h. */
#include <math.h>

#include "engine/model/spec.h"

double rope_frequency(const struct rope_set *rope, uint32_t pair)
{
    double frequency = pow(rope->base, -2.0 * pair / rope->dim);
    return rope->factors ? frequency / (double)rope->factors[pair] : frequency;
}

void rope_angles(const struct rope_set *rope, int32_t position, float *out)
{
    double at = (double)position / rope->scale;
    for (uint32_t i = 0; i < rope->dim / 2; i++) {
        double angle = at * rope_frequency(rope, i);
        out[2 * i] = (float)cos(angle);
        out[2 * i + 1] = (float)sin(angle);
    }
}
