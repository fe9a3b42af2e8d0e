/** Run-length encoded masks as COCO defines them: runs of zeros and ones in turn, down the columns, compressed to a string. */

/** Read the runs of a compressed string. */
export function runsOf(counts: string): number[] {
  const runs: number[] = [];
  let at = 0;
  while (at < counts.length) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more) {
      const code = counts.charCodeAt(at++) - 48;
      if (!(code >= 0 && code < 64)) throw new Error(`expected a compressed RLE, got the character ${counts[at - 1]}`);
      value |= (code & 31) << shift;
      more = (code & 32) !== 0;
      shift += 5;
      if (!more && code & 16) value |= -1 << shift;
    }
    // from the third run on, the difference to the run before the last one is stored
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** Write runs as a compressed string. */
export function stringOf(runs: readonly number[]): string {
  const codes: number[] = [];
  for (let i = 0; i < runs.length; i++) {
    let value = i > 2 ? runs[i] - runs[i - 2] : runs[i];
    let more = true;
    while (more) {
      let code = value & 31;
      value >>= 5;
      more = code & 16 ? value !== -1 : value !== 0;
      if (more) code |= 32;
      codes.push(code + 48);
    }
  }
  let text = "";
  for (let i = 0; i < codes.length; i += 4096) text += String.fromCharCode(...codes.slice(i, i + 4096));
  return text;
}

/** Write `value` into the pixels of a mask; `labels` has height x width pixels, row after row. */
export function fillRuns(labels: Uint8Array, height: number, width: number, counts: string, value: number): void {
  let at = 0;
  let inside = false;
  for (const run of runsOf(counts)) {
    if (inside) {
      let row = at % height;
      let column = (at - row) / height;
      for (let k = 0; k < run; k++) {
        labels[row * width + column] = value;
        if (++row === height) {
          row = 0;
          column++;
        }
      }
    }
    at += run;
    inside = !inside;
  }
  if (at !== height * width) throw new Error(`expected runs of ${height * width} pixels, got ${at}`);
}

/** Encode the pixels of `labels` that equal `value`. */
export function encode(labels: Uint8Array, height: number, width: number, value: number): string {
  const runs: number[] = [];
  let inside = false;
  let run = 0;
  for (let column = 0; column < width; column++) {
    for (let at = column; at < height * width; at += width) {
      const is = labels[at] === value;
      if (is !== inside) {
        runs.push(run);
        run = 0;
        inside = is;
      }
      run++;
    }
  }
  runs.push(run);
  return stringOf(runs);
}
