/** Drawing on a picture of labels: one value a pixel, 0 is background. All functions change `labels` in place. */

export interface Size {
  height: number;
  width: number;
}

export interface Point {
  x: number;
  y: number;
}

/** Left, top, right (exclusive) and bottom (exclusive), in pixels. */
export interface Rect {
  x0: number;
  y0: number;
  x1: number;
  y1: number;
}

/** Decides which pixels a tool may change. */
export type MayChange = (value: number) => boolean;

export function unite(a: Rect | null, b: Rect): Rect {
  if (!a) return b;
  return { x0: Math.min(a.x0, b.x0), y0: Math.min(a.y0, b.y0), x1: Math.max(a.x1, b.x1), y1: Math.max(a.y1, b.y1) };
}

function clipped(rect: Rect, { height, width }: Size): Rect {
  const x0 = Math.max(0, Math.floor(rect.x0));
  const y0 = Math.max(0, Math.floor(rect.y0));
  return { x0, y0, x1: Math.max(x0, Math.min(width, Math.ceil(rect.x1))), y1: Math.max(y0, Math.min(height, Math.ceil(rect.y1))) };
}

/** Fill every pixel whose centre is at most `radius` from the line between two points. Returns the changed rectangle. */
export function stroke(labels: Uint8Array, size: Size, from: Point, to: Point, radius: number, value: number, may: MayChange): Rect {
  const rect = clipped(
    {
      x0: Math.min(from.x, to.x) - radius - 1,
      y0: Math.min(from.y, to.y) - radius - 1,
      x1: Math.max(from.x, to.x) + radius + 1,
      y1: Math.max(from.y, to.y) + radius + 1,
    },
    size,
  );
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const length = dx * dx + dy * dy;
  // a brush thinner than a pixel still draws the pixel below it
  const reach = Math.max(radius, 0.5 * Math.SQRT2) ** 2;
  for (let y = rect.y0; y < rect.y1; y++) {
    for (let x = rect.x0; x < rect.x1; x++) {
      const px = x + 0.5 - from.x;
      const py = y + 0.5 - from.y;
      const t = length ? Math.max(0, Math.min(1, (px * dx + py * dy) / length)) : 0;
      const at = y * size.width + x;
      if ((px - t * dx) ** 2 + (py - t * dy) ** 2 <= reach && may(labels[at])) labels[at] = value;
    }
  }
  return rect;
}

/** Fill a polygon by the even-odd rule, pixels by their centres. Returns the changed rectangle. */
export function fillPolygon(labels: Uint8Array, size: Size, points: readonly Point[], value: number, may: MayChange): Rect {
  const xs = points.map((p) => p.x);
  const ys = points.map((p) => p.y);
  const rect = clipped({ x0: Math.min(...xs), y0: Math.min(...ys), x1: Math.max(...xs) + 1, y1: Math.max(...ys) + 1 }, size);
  for (let y = rect.y0; y < rect.y1; y++) {
    const centre = y + 0.5;
    const crossings: number[] = [];
    for (let i = 0; i < points.length; i++) {
      const a = points[i];
      const b = points[(i + 1) % points.length];
      if (a.y <= centre !== b.y <= centre) crossings.push(a.x + ((centre - a.y) / (b.y - a.y)) * (b.x - a.x));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const end = Math.min(size.width, Math.ceil(crossings[i + 1] - 0.5));
      for (let x = Math.max(0, Math.ceil(crossings[i] - 0.5)); x < end; x++) {
        const at = y * size.width + x;
        if (may(labels[at])) labels[at] = value;
      }
    }
  }
  return rect;
}

/** Find the connected areas (4 neighbours) of the pixels for which `is` holds. */
function areas(labels: Uint8Array, { height, width }: Size, is: (value: number) => boolean): Int32Array[] {
  const seen = new Uint8Array(labels.length);
  const found: Int32Array[] = [];
  const stack: number[] = [];
  for (let start = 0; start < height * width; start++) {
    if (seen[start] || !is(labels[start])) continue;
    const members: number[] = [];
    stack.push(start);
    seen[start] = 1;
    while (stack.length) {
      const at = stack.pop()!;
      members.push(at);
      const x = at % width;
      const visit = (next: number) => {
        if (!seen[next] && is(labels[next])) {
          seen[next] = 1;
          stack.push(next);
        }
      };
      if (x > 0) visit(at - 1);
      if (x + 1 < width) visit(at + 1);
      if (at >= width) visit(at - width);
      if (at + width < labels.length) visit(at + width);
    }
    found.push(Int32Array.from(members));
  }
  return found;
}

/** Give the background areas that an object encloses to the object. Returns the number of pixels. */
export function fillHoles(labels: Uint8Array, size: Size, value: number): number {
  let filled = 0;
  const { height, width } = size;
  for (const area of areas(labels, size, (v) => v !== value)) {
    const open = area.some((at) => at < width || at >= (height - 1) * width || at % width === 0 || at % width === width - 1);
    if (open) continue;
    for (const at of area) {
      if (labels[at] === 0) {
        labels[at] = value;
        filled++;
      }
    }
  }
  return filled;
}

/** Remove the areas of an object that have fewer than `least` pixels; the largest stays. Returns the number of pixels. */
export function removeSpecks(labels: Uint8Array, size: Size, value: number, least: number): number {
  const found = areas(labels, size, (v) => v === value).sort((a, b) => b.length - a.length);
  let removed = 0;
  for (const area of found.slice(1)) {
    if (area.length >= least) continue;
    for (const at of area) labels[at] = 0;
    removed += area.length;
  }
  return removed;
}

/** Give the connected area below a point to another value. Returns the number of pixels; 0 if `value` is not there. */
export function splitOff(labels: Uint8Array, size: Size, point: Point, value: number, other: number): number {
  const at = Math.floor(point.y) * size.width + Math.floor(point.x);
  if (labels[at] !== value) return 0;
  const area = areas(labels, size, (v) => v === value).find((members) => members.includes(at))!;
  for (const member of area) labels[member] = other;
  return area.length;
}
