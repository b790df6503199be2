/* See size.h. */
#include "config/base/size.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

bool number_parse(const char *text, double *value)
{
    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        return false;
    for (const char *c = text; *c; c++)
        if (!isdigit((unsigned char)*c) && *c != '.' && *c != 'e' && *c != 'E' && *c != '-' &&
            *c != '+')
            return false;
    char *end;
    errno = 0;
    double number = strtod(text, &end);
    if (*end || errno == ERANGE || !isfinite(number))
        return false;
    *value = number;
    return true;
}

bool size_parse(const char *text, uint64_t *bytes)
{
    static const struct {
        const char *name;
        double factor;
    } units[] = {{"", 1},         {"b", 1},       {"k", 0x1p10},   {"kb", 0x1p10}, {"kib", 0x1p10},
                 {"m", 0x1p20},   {"mb", 0x1p20}, {"mib", 0x1p20}, {"g", 0x1p30},  {"gb", 0x1p30},
                 {"gib", 0x1p30}, {"t", 0x1p40},  {"tb", 0x1p40},  {"tib", 0x1p40}};
    if (!isdigit((unsigned char)text[0]))
        return false;
    const char *unit = text;
    while (isdigit((unsigned char)*unit) || *unit == '.')
        unit++;
    char digits[40];
    if ((size_t)(unit - text) >= sizeof digits)
        return false;
    snprintf(digits, sizeof digits, "%.*s", (int)(unit - text), text);
    double number;
    if (!number_parse(digits, &number))
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcasecmp(unit, units[i].name))
            continue;
        double product = number * units[i].factor;
        if (product > 0x1p62 || (units[i].factor == 1 && product != floor(product)))
            return false;
        *bytes = (uint64_t)product;
        return true;
    }
    return false;
}

bool seconds_parse(const char *text, uint64_t *ms)
{
    double seconds;
    if (!number_parse(text, &seconds) || seconds < 0 || seconds > 1e9)
        return false;
    *ms = (uint64_t)llround(seconds * 1000);
    return *ms > 0 || seconds == 0;
}

bool whole_number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
    if (!text[0])
        return false;
    uint64_t number = 0;
    for (const char *c = text; *c; c++) {
        if (!isdigit((unsigned char)*c) || __builtin_mul_overflow(number, 10u, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*c - '0'), &number))
            return false;
    }
    if (number < min || number > max)
        return false;
    *value = number;
    return true;
}

const char *size_format(char out[32], uint64_t bytes)
{
    static const char *const names[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof names / sizeof *names) {
        value /= 1024;
        unit++;
    }
    snprintf(out, 32, unit ? "%.1f %s" : "%.0f %s", value, names[unit]);
    return out;
}
