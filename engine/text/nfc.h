/* Unicode's normalisation form C: letters and their marks as one character where there is one. Some
 * models' tokenizers normalise a text before they cut it into words. Any thread. */
#ifndef WINNOW_ENGINE_TEXT_NFC_H
#define WINNOW_ENGINE_TEXT_NFC_H

#include "config/base/bytes.h"

/* Appends the text in form C to `out`; bytes that are not UTF-8 stay. A text that has no character
 * which the form might change is left alone: *changed is false and nothing is appended. Work is
 * n log n. False: out of memory. */
bool nfc_normalise(const char *text, size_t length, struct bytes *out, bool *changed);

#endif
