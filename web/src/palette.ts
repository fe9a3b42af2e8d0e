/** Colours of objects: those of Okabe and Ito, which people with colour blindness can tell apart, then lighter and darker ones. */

const BASE: readonly (readonly [number, number, number])[] = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [0, 114, 178],
  [213, 94, 0],
  [204, 121, 167],
];

export type Colour = readonly [number, number, number];

/** The colour of the object at this place in the list of objects. */
export function colourOf(place: number): Colour {
  const [r, g, b] = BASE[place % BASE.length];
  const turn = Math.floor(place / BASE.length);
  if (turn === 0) return [r, g, b];
  const target = turn % 2 ? 255 : 0;
  const share = Math.min(0.75, 0.4 + 0.15 * Math.floor((turn - 1) / 2));
  const mix = (value: number) => Math.round(value + (target - value) * share);
  return [mix(r), mix(g), mix(b)];
}

export function css([r, g, b]: Colour, alpha = 1): string {
  return `rgb(${r} ${g} ${b} / ${alpha})`;
}

export function parseHex(hex: string): Colour {
  const value = Number.parseInt(hex.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

export function toHex([r, g, b]: Colour): string {
  return `#${((r << 16) | (g << 8) | b).toString(16).padStart(6, "0")}`;
}
