#!/usr/bin/env python3
"""Writes engine/text/nfc_table.h: what Unicode's normalisation form C needs, from Python's unicodedata."""
import os
import sys
import unicodedata as u

HERE = os.path.dirname(os.path.abspath(__file__))
HANGUL = range(0xAC00, 0xAC00 + 11172)


def rows(items, per_line):
    return "\n".join("    " + " ".join(items[i:i + per_line]) for i in range(0, len(items), per_line))


def main():
    pairs, singles, marks = [], [], []
    for c in range(sys.maxunicode + 1):
        text = chr(c)
        if u.combining(text):
            if marks and marks[-1][1] == c - 1 and marks[-1][2] == u.combining(text):
                marks[-1][1] = c
            else:
                marks.append([c, c, u.combining(text)])
        parts = u.decomposition(text)
        if c in HANGUL or not parts or parts.startswith("<"):
            continue
        parts = [int(p, 16) for p in parts.split()]
        if len(parts) == 2 and u.normalize("NFC", text) == text:
            pairs.append((c, *parts))
        else:
            singles.append((c, parts[0], parts[1] if len(parts) > 1 else 0))
    by_parts = sorted(range(len(pairs)), key=lambda i: (pairs[i][2], pairs[i][1]))
    with open(os.path.join(HERE, "..", "..", "engine", "text", "nfc_table.h"), "w") as f:
        f.write(f"""/* Unicode {u.unidata_version}, written by tests/data/write_nfc_table.py. Private to nfc.c. */
#ifndef WINNOW_ENGINE_TEXT_NFC_TABLE_H
#define WINNOW_ENGINE_TEXT_NFC_TABLE_H

#include <stdint.h>

/* clang-format off */

/* A character and its canonical decomposition; `second` is 0 where it is one character. */
struct nfc_parts {{
    uint32_t code, first, second;
}};

/* Those that form C writes as one character, by code. */
static const struct nfc_parts nfc_composed[] = {{
{rows(["{0x%X, 0x%X, 0x%X}," % p for p in pairs], 4)}
}};

/* Indices of nfc_composed by second and first part. */
static const uint16_t nfc_by_parts[] = {{
{rows(["%d," % i for i in by_parts], 16)}
}};

/* Those that form C never writes, by code. */
static const struct nfc_parts nfc_excluded[] = {{
{rows(["{0x%X, 0x%X, 0x%X}," % p for p in singles], 4)}
}};

/* Combining classes above 0, by code. */
static const struct nfc_class {{
    uint32_t first, last;
    uint8_t combining;
}} nfc_classes[] = {{
{rows(["{0x%X, 0x%X, %d}," % tuple(m) for m in marks], 4)}
}};

/* clang-format on */

#endif
""")


main()
