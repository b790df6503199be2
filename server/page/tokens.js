// The text that each token shows, even when a character is made of several tokens. No DOM, so that it can
// be tested alone.

// The length of the UTF-8 character at bytes[at]; 0 when none begins there (Unicode, table 3-7).
function characterLength(bytes, at) {
  const first = bytes[at];
  const length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (length === 0 || at + length > bytes.length) return 0;
  for (let i = 1; i < length; i++) if ((bytes[at + i] & 0xc0) !== 0x80) return 0;
  const second = bytes[at + 1];
  if ((first === 0xe0 && second < 0xa0) || (first === 0xed && second > 0x9f) ||
      (first === 0xf0 && second < 0x90) || (first === 0xf4 && second > 0x8f)) return 0;
  return length;
}

// Reads the tokens from first to last together, because none of them is text alone.
function readParts(pieces, tokens, first, last, offset) {
  const decoder = new TextDecoder();
  const bytes = Uint8Array.from(pieces.slice(first, last).flat());
  const owner = pieces.slice(first, last).flatMap((piece, i) => piece.map(() => first + i));
  let text = "";
  for (let i = 0; i < bytes.length;) {
    const length = characterLength(bytes, i) || 1;
    const character = decoder.decode(bytes.subarray(i, i + length)); // U+FFFD if it is not a character
    const end = owner[i + length - 1];
    tokens[owner[i]].text += character;
    for (let t = owner[i]; t <= end; t++) {
      if (tokens[t].start < 0) tokens[t].start = offset + text.length;
      tokens[t].end = offset + text.length + character.length;
      if (owner[i] !== end) tokens[t].whole = character;
    }
    text += character;
    i += length;
  }
  return text;
}

// pieces: the server's list for /tokenize. Each is a text, or an array of bytes when these are not text. For each
// token:
//   text   what it shows: whole characters; the first token of a character shows it
//   bytes  its bytes if it is only a part of a character, else null
//   whole  the character that it is a part of, "" if there is none
//   start, end  the characters that it is a part of, as offsets into `text` of the result
// A text never ends with a part of a character, so only neighbouring arrays are read together.
export function readPieces(pieces) {
  const tokens = pieces.map((piece) => (typeof piece === "string" ? { text: piece, bytes: null, whole: "", start: 0, end: 0 }
    : { text: "", bytes: piece, whole: "", start: -1, end: -1 }));
  const texts = [];
  let offset = 0;
  for (let i = 0; i < pieces.length;) {
    let next = i + 1;
    let text = pieces[i];
    if (typeof text === "string") Object.assign(tokens[i], { start: offset, end: offset + text.length });
    else {
      while (next < pieces.length && typeof pieces[next] !== "string") next++;
      text = readParts(pieces, tokens, i, next, offset);
    }
    texts.push(text);
    offset += text.length;
    i = next;
  }
  return { tokens, text: texts.join("") };
}

// The tokens that are a part of an occurrence of `words`.
export function tokensWith(read, words) {
  const found = new Set();
  if (!words) return found;
  const wanted = new RegExp(words.replace(/[\\^$.*+?()[\]{}|\/-]/g, (sign) => "\\x" + sign.charCodeAt(0).toString(16)), "giu");
  let first = 0;
  for (const match of read.text.matchAll(wanted)) {
    const end = match.index + match[0].length;
    while (first < read.tokens.length && read.tokens[first].end <= match.index) first++;
    for (let t = first; t < read.tokens.length && read.tokens[t].start < end; t++)
      if (read.tokens[t].end > match.index) found.add(t);
  }
  return found;
}

// kv_trace.kept, [layer][head] -> [[first, last], ...], for the picture. Heads are numbered through the layers, and
// only the prompt's tokens count. If the server cut the lists short, `slots` is what each head really holds: a head
// with a shorter list is not complete.
export function readTrace(kept, nPrompt, slots = null) {
  const ranges = kept.flat();
  const by = new Int32Array(nPrompt + 1); // differences, then sums
  const counts = ranges.map((list, head) => {
    const whole = list.reduce((sum, [first, last]) => sum + last - first + 1, 0);
    if (slots && whole !== slots[head]) return -1;
    let n = 0;
    for (const [first, last] of list) {
      if (first >= nPrompt) break;
      const end = Math.min(last + 1, nPrompt);
      by[first]++;
      by[end]--;
      n += end - first;
    }
    return n;
  });
  for (let p = 1; p < nPrompt; p++) by[p] += by[p - 1];
  return { by: by.subarray(0, nPrompt), counts, complete: counts.map((n) => n >= 0),
    holds: (head, token) => holds(ranges[head], token) };
}

// Whether a position is in sorted ranges.
function holds(ranges, position) {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ranges[middle][1] < position) low = middle + 1;
    else high = middle;
  }
  return low < ranges.length && ranges[low][0] <= position;
}

// 0 to 8: 0 is nothing, 1 is up to an eighth, 8 is everything.
export function levelOf(part, whole) {
  return part <= 0 || whole <= 0 ? 0 : Math.min(8, Math.max(1, Math.ceil((8 * part) / whole)));
}
