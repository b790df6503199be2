/* The file of finished runs: see eval_results.h. */
#include "server/report/eval_results.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/json_read.h"

static bool file_failed(const struct eval_results *r, const char *name, struct error *e)
{
    return error_set(e, "file_error", name, "%s/%s cannot be used: %s", r->directory, name,
                     strerror(errno));
}

/* A line as an object. NULL with an empty e->code: an interrupt cut the line short. */
static json_t *parse_line(const char *line, size_t length, struct error *e)
{
    *e = (struct error){.code = ""};
    if (line[length - 1] != '\n')
        return NULL;
    json_t *value = json_read(line, length, 0, "", "", "a result", e);
    if (json_is_object(value))
        return value;
    json_decref(value);
    return NULL;
}

/* Reads the lines of an earlier run. A line that an interrupt cut short is removed from the file, so
 * that the next one begins a line. */
static bool read_lines(struct eval_results *r, FILE *file, struct error *e)
{
    char *line = NULL;
    size_t room = 0;
    long good = 0;
    for (ssize_t length; (length = getline(&line, &room, file)) > 0; good = ftell(file)) {
        json_t *value = parse_line(line, (size_t)length, e);
        if (!value && !e->code[0])
            break;
        if (!value || (good > 0 && json_array_append_new(r->runs, value) != 0)) {
            free(line);
            return error_set_memory(e, "results", (uint64_t)length);
        }
        if (good > 0)
            continue;
        bool same = json_equal(value, r->settings);
        json_decref(value);
        if (!same) {
            free(line);
            return error_set(e, "invalid_value", "--out",
                             "%s has results of other settings or of another model; choose "
                             "another folder or remove it",
                             r->directory);
        }
    }
    free(line);
    return ftruncate(fileno(file), good) == 0 || file_failed(r, "results.jsonl", e);
}

static bool write_line(struct eval_results *r, const json_t *value, struct error *e)
{
    bool written = json_dumpf(value, r->lines, JSON_COMPACT) == 0 && fputc('\n', r->lines) != EOF &&
                   fflush(r->lines) == 0;
    return written || file_failed(r, "results.jsonl", e);
}

bool eval_results_open(struct eval_results *r, const char *directory, json_t *settings,
                       struct error *e)
{
    char *path = NULL;
    *r = (struct eval_results){
        .directory = strdup(directory), .runs = json_array(), .settings = settings};
    if (!r->directory || !r->runs || asprintf(&path, "%s/results.jsonl", directory) < 0)
        return error_set_memory(e, "results", 4096);
    if (mkdir(directory, 0777) != 0 && errno != EEXIST) {
        free(path);
        return error_set(e, "file_error", directory, "the folder cannot be created: %s",
                         strerror(errno));
    }
    FILE *there = fopen(path, "r+e");
    bool good = !there || read_lines(r, there, e);
    if (there)
        fclose(there);
    struct stat status;
    bool known = stat(path, &status) == 0 && status.st_size > 0;
    if (good && !(r->lines = fopen(path, "ae")))
        good = file_failed(r, "results.jsonl", e);
    free(path);
    return good && (known || write_line(r, r->settings, e));
}

void eval_results_close(struct eval_results *r)
{
    if (r->lines)
        fclose(r->lines);
    json_decref(r->runs);
    json_decref(r->settings);
    free(r->directory);
    *r = (struct eval_results){0};
}

bool eval_results_has(const struct eval_results *r, const json_t *key)
{
    size_t i;
    json_t *run, *value;
    const char *name;
    json_array_foreach(r->runs, i, run)
    {
        bool same = true;
        json_object_foreach((json_t *)(uintptr_t)key, name, value)
        {
            same = same && json_equal(json_object_get(run, name), value);
        }
        if (same)
            return true;
    }
    return false;
}

bool eval_results_add(struct eval_results *r, json_t *run, struct error *e)
{
    if (!run || json_array_append_new(r->runs, run) != 0)
        return error_set_memory(e, "results", 4096);
    return write_line(r, run, e);
}
